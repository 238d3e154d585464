//! The heart of Forklift: what decides, what acts, and the words they share. No Python.
//!
//! floors: error · id · config · event · telemetry · copying · near · payload · commons · message · channel · pressure · scheduler · supervisor · machine · footprint · process · load · handle · mailbox · reserve · crew · spill · driver · worker · pool
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

pub mod channel;
pub mod commons;
pub mod config;
pub mod copying;
mod crew;
mod driver;
pub mod error;
pub mod event;
pub mod footprint;
pub mod handle;
pub mod id;
pub mod load;
pub mod machine;
mod mailbox;
pub mod message;
mod near;
pub mod payload;
pub mod pool;
pub mod pressure;
pub mod process;
mod reserve;
pub mod scheduler;
pub mod spill;
pub mod supervisor;
pub mod telemetry;
pub mod worker;

pub use error::{Error, Result};
pub use mailbox::{Counters, Member};
