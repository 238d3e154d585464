//! The heart of Forklift: what decides, what acts, and the words they share. No Python.
//!
//! floors: error · id · config · event · payload · message · channel · scheduler · supervisor · machine · process · handle · mailbox · crew · driver · worker · pool
#![forbid(unsafe_code)]

pub mod channel;
pub mod config;
mod crew;
mod driver;
pub mod error;
pub mod event;
pub mod handle;
pub mod id;
pub mod machine;
mod mailbox;
pub mod message;
pub mod payload;
pub mod pool;
pub mod process;
pub mod scheduler;
pub mod supervisor;
pub mod worker;

pub use error::{Error, Result};
pub use mailbox::{Counters, Member};
