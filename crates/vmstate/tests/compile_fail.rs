//! What must not compile, and the words the compiler says it with.

#[test]
fn what_would_be_forgotten_or_misread_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile-fail/*.rs");
}
