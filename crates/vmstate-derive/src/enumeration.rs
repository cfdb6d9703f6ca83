//! The derive on an enum.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Fields, Ident, Result};

use crate::attributes::{check_no_generics, description, enum_name, error, is_repr_u8};

pub(crate) fn derive(input: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    check_no_generics(&input.generics)?;
    let ident = &input.ident;
    if !is_repr_u8(&input.attrs)? {
        return error(ident.span(), "a saved enum is `#[repr(u8)]`");
    }
    if data.variants.is_empty() {
        return error(ident.span(), "a saved enum has variants");
    }
    let mut idents: Vec<&Ident> = Vec::new();
    let mut described = Vec::new();
    for variant in &data.variants {
        let name = &variant.ident;
        if !matches!(variant.fields, Fields::Unit) {
            return error(name.span(), "a variant of a saved enum has no fields");
        }
        if variant.discriminant.is_none() {
            return error(name.span(), "say the value that stands for it in the stream: `= N`");
        }
        let (text, description) = (name.to_string(), description(&variant.attrs));
        idents.push(name);
        described.push(quote! {
            ::vmstate::Variant { value: #ident::#name as u8, name: #text, description: #description }
        });
    }
    let name = match enum_name(&input.attrs)? {
        Some(name) => name.value(),
        None => ident.to_string(),
    };
    let positions = 0..idents.len() - 1;
    let (first, last) = (&idents[..idents.len() - 1], idents[idents.len() - 1]);
    Ok(quote! {
        const _: () = {
            const VARIANTS: &[::vmstate::Variant] = &[#(#described),*];

            #[automatically_derived]
            impl ::vmstate::Field for #ident {
                fn ty() -> ::vmstate::Type {
                    ::vmstate::Type::Enum { name: #name, variants: VARIANTS }
                }

                fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                    out.push(match self {
                        #(Self::#idents => Self::#idents as u8,)*
                    });
                }

                fn decode(
                    decoder: &mut ::vmstate::Decoder<'_>,
                ) -> ::std::result::Result<Self, ::vmstate::DecodeError> {
                    ::std::result::Result::Ok(match decoder.variant(#name, VARIANTS)? {
                        #(#positions => Self::#first,)*
                        _ => Self::#last,
                    })
                }
            }
        };
    })
}
