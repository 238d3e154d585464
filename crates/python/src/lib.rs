//! The extension module `forklift._native`: translates between Python and the core, and decides nothing.
//!
//! floors: error · seconds · visits · signals · descriptor · private_heap · numpy_heap · tally · once · buffer · condense · text · refcount · numbers · standin · parcel · store · sink · anchors · pickle · unpickle · distant · shared · separate · sharing · bindings · worker · telemetry · onlooker · outcomes · pulls · feed · relay · pool
// Elsewhere the crate is empty: the package installs, and says at the first pool what it lacks.
#![cfg(target_os = "linux")]

/// A name of Python's. Not `pyo3::intern`, which keeps it in a cell: while that is made for the first time the interpreter may
/// be let go of, and a fork in that moment inherits it half made.
macro_rules! intern {
    ($py:expr, $text:expr) => {
        ::pyo3::types::PyString::intern($py, $text)
    };
}

mod anchors;
mod bindings;
mod buffer;
mod condense;
mod descriptor;
mod distant;
mod error;
mod feed;
mod numbers;
mod numpy_heap;
mod once;
mod onlooker;
mod outcomes;
mod parcel;
mod pickle;
mod pool;
mod private_heap;
mod pulls;
mod refcount;
mod relay;
mod seconds;
mod separate;
mod shared;
mod sharing;
mod signals;
mod sink;
mod standin;
mod store;
mod tally;
mod telemetry;
mod text;
mod unpickle;
mod visits;
mod worker;

use pyo3::prelude::*;

/// The private module. Its names are the package's own business.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    forklift_shm::prepare_for_forks();
    signals::watch();
    module.add_class::<buffer::Buffer>()?;
    module.add_class::<buffer::Lent>()?;
    module.add_function(wrap_pyfunction!(condense::condense, module)?)?;
    module.add_class::<standin::Bulk>()?;
    module.add_class::<numbers::Numbers>()?;
    module.add_function(wrap_pyfunction!(numbers::unpack, module)?)?;
    module.add_class::<text::Text>()?;
    module.add_function(wrap_pyfunction!(numpy_heap::enter_shared, module)?)?;
    module.add_function(wrap_pyfunction!(numpy_heap::leave_shared, module)?)?;
    module.add_function(wrap_pyfunction!(numpy_heap::trim_shared, module)?)?;
    module.add_function(wrap_pyfunction!(numpy_heap::shared_usage, module)?)?;
    module.add_function(wrap_pyfunction!(pickle::departing, module)?)?;
    module.add_class::<parcel::PyParcel>()?;
    module.add_class::<store::Store>()?;
    module.add_class::<store::Lease>()?;
    module.add_class::<store::Room>()?;
    module.add_function(wrap_pyfunction!(store::let_go, module)?)?;
    module.add_function(wrap_pyfunction!(store::place_of, module)?)?;
    module.add_class::<relay::Relay>()?;
    module.add_class::<sink::Sink>()?;
    module.add_class::<shared::Reference>()?;
    module.add_function(wrap_pyfunction!(shared::fetch, module)?)?;
    module.add_function(wrap_pyfunction!(anchors::part, module)?)?;
    module.add_function(wrap_pyfunction!(sharing::unshared, module)?)?;
    module.add_function(wrap_pyfunction!(separate::are_separate, module)?)?;
    module.add_function(wrap_pyfunction!(separate::holds_alone, module)?)?;
    module.add_class::<pool::Pool>()?;
    module.add_class::<feed::Job>()?;
    module.add_class::<feed::Ending>()?;
    module.add_class::<telemetry::Telemetry>()?;
    module.add_function(wrap_pyfunction!(visits::await_visits, module)?)?;
    module.add_function(wrap_pyfunction!(visits::forget_others, module)?)?;
    module.add_function(wrap_pyfunction!(worker::serve, module)?)?;
    module.add_function(wrap_pyfunction!(pool::cores, module)?)?;
    module.add_function(wrap_pyfunction!(pool::memory_total, module)?)?;
    module.add_function(wrap_pyfunction!(pool::memory_available, module)?)?;
    module.add_function(wrap_pyfunction!(pool::check_environment, module)?)?;
    module.add_function(wrap_pyfunction!(pool::check_spill_dir, module)?)?;
    module.add_function(wrap_pyfunction!(pool::private_descriptors, module)?)?;
    module.add_function(wrap_pyfunction!(onlooker::look_at_pool, module)?)?;
    module.add("SCOREBOARD_NAME", forklift_shm::SCOREBOARD_NAME)?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("DEBUG", cfg!(debug_assertions))?;
    Ok(())
}
