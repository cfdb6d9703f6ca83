//! The derive on a struct.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    DataStruct, DeriveInput, Expr, Fields, GenericArgument, Ident, PathArguments, Result, Type,
};

use crate::attributes::{
    DefaultValue, FieldAttributes, Saved, StructAttributes, check_name, check_no_generics,
    description, error,
};

/// The pieces of code that the fields contribute, each in the order of the fields.
#[derive(Default)]
struct Pieces {
    /// Patterns that take the struct apart.
    patterns: Vec<TokenStream>,
    /// Statements that encode.
    encode: Vec<TokenStream>,
    /// Statements that encode subsections, which come after all fields.
    encode_subsections: Vec<TokenStream>,
    /// Statements that decode into a variable each.
    decode: Vec<TokenStream>,
    /// Names of those variables, with the fields they are for.
    build: Vec<TokenStream>,
    /// Schemas of the fields.
    fields: Vec<TokenStream>,
    /// Schemas of the subsections.
    subsections: Vec<TokenStream>,
    /// Full names of the subsections.
    subsection_names: Vec<String>,
    /// Entries for what is not saved.
    excused: Vec<TokenStream>,
    /// Types of the fields before the last; nothing in them may be open-ended.
    inner: Vec<(Span, TokenStream)>,
    /// The last field's, which may be.
    last: Option<(Span, TokenStream)>,
    /// Types that are in every encoding.
    all: Vec<TokenStream>,
    /// Conditions that are checked when the code is compiled.
    checks: Vec<TokenStream>,
}

pub(crate) fn derive(input: &DeriveInput, data: &DataStruct) -> Result<TokenStream> {
    check_no_generics(&input.generics)?;
    let ident = &input.ident;
    let Fields::Named(named) = &data.fields else {
        return error(ident.span(), "saved state has named fields");
    };
    let attributes = StructAttributes::parse(&input.attrs, ident.span())?;
    let mut pieces = Pieces::default();
    for field in &named.named {
        let Some(name) = &field.ident else { continue };
        let description = description(&field.attrs);
        let options = FieldAttributes::parse(&field.attrs)?;
        if description.is_empty() && !matches!(options.saved, Saved::Excused(_)) {
            return error(
                name.span(),
                "say in a doc comment what this field is, or excuse it: \
                 `#[vmstate(excused = \"reason\")]`",
            );
        }
        pieces.field(&attributes, name, &field.ty, &description, options)?;
    }
    Ok(pieces.assemble(ident, &attributes, &description(&input.attrs)))
}

/// `T` of a `Vec<T>` or an `Option<T>`.
fn argument<'a>(ty: &'a Type, of: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) if last.ident == of && arguments.args.len() == 1 => {
            Some(inner)
        }
        _ => None,
    }
}

impl Pieces {
    fn field(
        &mut self,
        of: &StructAttributes,
        name: &Ident,
        ty: &Type,
        description: &str,
        options: FieldAttributes,
    ) -> Result<()> {
        let text = name.unraw().to_string();
        let variable = format_ident!("field_{}", name.unraw());
        let (since, default) = match options.saved {
            Saved::Excused(reason) => {
                self.patterns.push(quote! { #name: _ });
                self.excused.push(quote! { ::vmstate::Excused { name: #text, reason: #reason } });
                let span = ty.span();
                self.build.push(quote_spanned! { span=>
                    #name: <#ty as ::std::default::Default>::default()
                });
                return Ok(());
            }
            Saved::Subsection(subsection) => {
                let full = match subsection.value().strip_prefix('/') {
                    Some(full) => full.to_owned(),
                    None => format!("{}/{}", of.name.value(), subsection.value()),
                };
                check_name(&syn::LitStr::new(&full.replacen('/', ".", 1), subsection.span()))?;
                if self.subsection_names.contains(&full) {
                    return error(subsection.span(), "another subsection has this name");
                }
                self.patterns.push(quote! { #name: #variable });
                self.build.push(quote! { #name: #variable });
                return self.subsection(ty, &variable, &text, description, full);
            }
            // Formats of others have versions 0.
            Saved::Plain => (of.minimum_version.min(1), None),
            Saved::Since { version, at, default } => {
                if version > of.version {
                    return error(at, "the struct has no such version yet");
                }
                (version, Some(default))
            }
        };
        if !self.subsection_names.is_empty() {
            return error(name.span(), "a subsection comes after all other fields");
        }
        self.patterns.push(quote! { #name: #variable });
        self.build.push(quote! { #name: #variable });
        let (decode, schema_type) = match options.max {
            Some(max) => self.list(ty, &variable, &max)?,
            None => self.plain(ty, &variable)?,
        };
        let decode = quote! { #decode.map_err(|error| error.within(#text))? };
        let default_text = match &default {
            Some(DefaultValue { text, expression: _ }) => {
                quote! { ::std::option::Option::Some(#text) }
            }
            None => quote! { ::std::option::Option::None },
        };
        self.decode.push(match default.map(|default| default.expression) {
            Some(default) => quote! {
                let #variable: #ty = if version >= #since { #decode } else { #default };
            },
            None => quote! { let #variable: #ty = #decode; },
        });
        self.fields.push(quote! {
            ::vmstate::FieldSchema {
                name: #text,
                description: #description,
                since: #since,
                default: #default_text,
                ty: #schema_type,
            }
        });
        Ok(())
    }

    fn plain(&mut self, ty: &Type, variable: &Ident) -> Result<(TokenStream, TokenStream)> {
        let span = ty.span();
        if argument(ty, "Vec").is_some() {
            return error(span, "a `Vec` needs a bound: `#[vmstate(max = N)]`");
        }
        if argument(ty, "Option").is_some() {
            return error(span, "an `Option` is a subsection: `#[vmstate(subsection = \"name\")]`");
        }
        self.push_type(span, quote_spanned! { span=> <#ty as ::vmstate::Field> });
        self.encode.push(quote_spanned! { span=>
            <#ty as ::vmstate::Field>::encode(#variable, out);
        });
        Ok((
            quote_spanned! { span=> <#ty as ::vmstate::Field>::decode(decoder) },
            quote_spanned! { span=> <#ty as ::vmstate::Field>::ty() },
        ))
    }

    fn list(
        &mut self,
        ty: &Type,
        variable: &Ident,
        max: &Expr,
    ) -> Result<(TokenStream, TokenStream)> {
        let span = ty.span();
        let Some(element) = argument(ty, "Vec") else {
            return error(span, "a bound is for a `Vec`");
        };
        if argument(element, "Vec").is_some() {
            return error(span, "a list of lists has no second bound: put a struct between them");
        }
        let field = quote_spanned! { span=> <#element as ::vmstate::Field> };
        self.checks.push(quote_spanned! { span=>
            assert!(
                #field::SOUND && !#field::OPEN_ENDED,
                "a list cannot hold structs that have subsections",
            );
            assert!(!#field::EMPTY, "a list cannot hold structs without saved fields");
        });
        let at = max.span();
        self.checks.push(quote_spanned! { at=>
            const MAX: u32 = #max;
            assert!(MAX > 0, "a list that is always empty");
        });
        self.push_versions(span, &field);
        // A list has bytes, and ends where its count says.
        if let Some(last) = self.last.take() {
            self.inner.push(last);
        }
        self.all.push(quote! { <u32 as ::vmstate::Field> });
        self.encode.push(quote_spanned! { span=>
            ::vmstate::private::encode_list::<#element>(#variable, out);
        });
        Ok((
            quote_spanned! { span=> ::vmstate::private::decode_list::<#element>(decoder, #max) },
            quote_spanned! { span=>
                ::vmstate::Type::List { element: ::std::boxed::Box::new(#field::ty()), max: #max }
            },
        ))
    }

    fn push_type(&mut self, span: Span, field: TokenStream) {
        self.push_versions(span, &field);
        self.checks.push(quote_spanned! { span=>
            assert!(#field::SOUND, "an array cannot hold structs that have subsections");
        });
        if let Some(last) = self.last.replace((span, field.clone())) {
            self.inner.push(last);
        }
        self.all.push(field);
    }

    fn push_versions(&mut self, span: Span, field: &TokenStream) {
        self.checks.push(quote_spanned! { span=>
            assert!(
                !#field::VERSIONED,
                "a struct within another has no version of its own in the stream: it has one \
                 version for ever, or is a subsection",
            );
        });
    }

    fn subsection(
        &mut self,
        ty: &Type,
        variable: &Ident,
        text: &str,
        description: &str,
        full: String,
    ) -> Result<()> {
        let span = ty.span();
        let Some(content) = argument(ty, "Option") else {
            return error(span, "a subsection is an `Option` of a struct");
        };
        let state = quote_spanned! { span=> <#content as ::vmstate::VmState> };
        let (index, length) = (self.subsection_names.len(), full.len() as u8);
        self.encode_subsections.push(quote! {
            if let ::std::option::Option::Some(subsection) = #variable {
                out.extend_from_slice(&[0x05, #length]);
                out.extend_from_slice(#full.as_bytes());
                out.extend_from_slice(&#state::VERSION.to_be_bytes());
                #state::encode_body(subsection, out);
            }
        });
        self.decode.push(quote! {
            let #variable: #ty = decoder
                .subsection::<#content>(SUBSECTIONS, #index)
                .map_err(|error| error.within(#text))?;
        });
        self.subsections.push(quote! {
            ::vmstate::Subsection {
                full_name: #full,
                field: #text,
                description: #description,
                schema: #state::schema(),
            }
        });
        self.subsection_names.push(full);
        Ok(())
    }

    fn assemble(self, ident: &Ident, of: &StructAttributes, description: &str) -> TokenStream {
        let Self {
            patterns,
            encode,
            encode_subsections,
            decode,
            build,
            fields,
            subsections,
            subsection_names,
            excused,
            inner,
            last,
            all,
            checks,
        } = self;
        let StructAttributes { name, version, minimum_version, validate } = of;
        let last = last.iter().map(|(_, field)| field);
        let inner = inner.iter().map(|(span, field)| {
            let span = *span;
            quote_spanned! { span=>
                const _: () =
                    assert!(!#field::OPEN_ENDED, "a struct that has subsections is the last field");
            }
        });
        let (open_ended, end) = if subsection_names.is_empty() {
            (quote! { false #(|| #last::OPEN_ENDED)* }, quote! {})
        } else {
            (quote! { true }, quote! { decoder.end_of_subsections(SUBSECTIONS)?; })
        };
        let validate = validate.iter().map(|validate| {
            quote_spanned! { validate.span()=>
                let check: fn(&Self) -> ::std::result::Result<(), ::vmstate::Invalid> = #validate;
                check(&state).map_err(|reason| ::vmstate::DecodeError::invalid(start, reason))?;
            }
        });
        quote! {
            const _: () = {
                const SUBSECTIONS: &[&str] = &[#(#subsection_names),*];

                #(const _: () = { #checks };)*
                #(#inner)*

                #[automatically_derived]
                impl ::vmstate::VmState for #ident {
                    const NAME: &'static str = #name;
                    const VERSION: u32 = #version;
                    const MINIMUM_VERSION: u32 = #minimum_version;

                    fn schema() -> ::vmstate::Schema {
                        static SCHEMA: ::std::sync::OnceLock<::vmstate::Schema> =
                            ::std::sync::OnceLock::new();
                        ::std::clone::Clone::clone(SCHEMA.get_or_init(|| {
                            ::vmstate::Schema::from(::vmstate::private::SchemaParts {
                                name: #name,
                                description: #description,
                                version: #version,
                                minimum_version: #minimum_version,
                                fields: ::std::vec![#(#fields),*],
                                subsections: ::std::vec![#(#subsections),*],
                                subsection_names: SUBSECTIONS,
                                excused: &[#(#excused),*],
                            })
                        }))
                    }

                    fn encode_body(&self, out: &mut ::std::vec::Vec<u8>) {
                        let Self { #(#patterns),* } = self;
                        let _ = &out;
                        #(#encode)*
                        #(#encode_subsections)*
                    }

                    fn decode_body(
                        decoder: &mut ::vmstate::Decoder<'_>,
                        version: u32,
                    ) -> ::std::result::Result<Self, ::vmstate::DecodeError> {
                        // Not every struct has versions, and not every one is validated.
                        let (_, start) = (version, decoder.offset());
                        #(#decode)*
                        #end
                        let state = Self { #(#build),* };
                        let _ = start;
                        #(#validate)*
                        ::std::result::Result::Ok(state)
                    }
                }

                #[automatically_derived]
                impl ::vmstate::Field for #ident {
                    const OPEN_ENDED: bool = #open_ended;
                    const VERSIONED: bool = #version != #minimum_version;
                    const EMPTY: bool = true #(&& #all::EMPTY)*;

                    fn ty() -> ::vmstate::Type {
                        ::vmstate::Type::Struct(<Self as ::vmstate::VmState>::schema())
                    }

                    fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                        ::vmstate::VmState::encode_body(self, out);
                    }

                    fn decode(
                        decoder: &mut ::vmstate::Decoder<'_>,
                    ) -> ::std::result::Result<Self, ::vmstate::DecodeError> {
                        <Self as ::vmstate::VmState>::decode_body(
                            decoder,
                            <Self as ::vmstate::VmState>::VERSION,
                        )
                    }
                }
            };
        }
    }
}
