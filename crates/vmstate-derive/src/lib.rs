//! `#[derive(VmState)]`: what a saved-state struct or enum says about itself, turned into the code
//! and the schema of crate `vmstate`. It refuses, with a sentence, whatever would be forgotten or
//! would not mean the same on every host.

mod attributes;
mod enumeration;
mod structure;

use proc_macro::TokenStream;
use syn::{Data, DeriveInput, parse_macro_input};

/// Derives saved state. See crate `vmstate`.
///
/// On a struct: `#[vmstate(name = "i8259", version = 1)]`, and if need be
/// `minimum_version = N` (default 1) and `validate = "path::to_fn"`, a
/// `fn(&Self) -> Result<(), vmstate::Invalid>`.
///
/// On a field, beside its doc comment, which is required:
/// - `since = N, default = "expression"`: added in version `N`; what older streams mean.
/// - `max = N`: bound of a `Vec`.
/// - `subsection = "name"`: an `Option` of a struct, there if it is `Some`; after all other fields.
///   In the stream it is called by the struct's name, a slash and its own; `"/name"` gives the whole
///   name, for formats of others that do not follow this.
/// - `excused = "reason"`: not saved; it gets its `Default` value.
///
/// An enum is `#[repr(u8)]`, has no fields, and gives every variant its value.
#[proc_macro_derive(VmState, attributes(vmstate))]
pub fn derive_vm_state(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let derived = match &input.data {
        Data::Struct(data) => structure::derive(&input, data),
        Data::Enum(data) => enumeration::derive(&input, data),
        Data::Union(data) => Err(syn::Error::new(data.union_token.span, "a union cannot be saved")),
    };
    derived.unwrap_or_else(syn::Error::into_compile_error).into()
}
