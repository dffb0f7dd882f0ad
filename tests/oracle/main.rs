//! The dynamic loader model against the dynamic loader of the machine that the tests run on.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod answer;
mod dlopen;
mod graphs;
mod imports;
mod isa;
mod machine;
mod musl;
mod python;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod world;
