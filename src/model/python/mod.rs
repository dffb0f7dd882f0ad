//! CPython as far as native code is concerned: which interpreter, which `sys.path`, what is installed, and which
//! extension modules an import loads. From files alone; nothing is executed.

mod added;
mod conditions;
pub mod distributions;
pub mod editable;
pub mod finder;
pub mod imports;
pub mod interpreter;
mod lines;
mod on_demand;
pub mod site;
pub mod source;
pub mod statements;

pub use distributions::{Installed, installed};
pub use finder::{Directory, File, Finder};
pub use imports::{Importer, Raised, Trace, World};
pub use interpreter::{Interpreter, NoInterpreter};
