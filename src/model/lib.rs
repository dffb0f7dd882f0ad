//! What an image holds and how it runs: its files, what the loader and Python make of them, and which GPUs and drivers
//! there are.
//!
//! Nothing here has an opinion on whether that is well. It is what is asked most, a crate of its own so that it is
//! compiled to be fast, and the rest to be small.

pub mod driver;
pub mod image;
pub mod loader;
pub mod parallel;
pub mod python;
pub mod structured;
