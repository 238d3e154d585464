//! The extension module `forklift._native`: translates between Python and the core, and decides nothing.
//!
//! floors: error · descriptor · buffer · numbers · pickle · worker · feed · pool

mod buffer;
mod descriptor;
mod error;
mod feed;
mod numbers;
mod pickle;
mod pool;
mod worker;

use pyo3::prelude::*;

/// The private module. Its names are the package's own business.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<buffer::Buffer>()?;
    module.add_class::<numbers::Numbers>()?;
    module.add_function(wrap_pyfunction!(numbers::unpack, module)?)?;
    module.add_class::<pickle::Sink>()?;
    module.add_class::<pool::Pool>()?;
    module.add_class::<feed::Job>()?;
    module.add_function(wrap_pyfunction!(worker::serve, module)?)?;
    module.add_function(wrap_pyfunction!(pool::cores, module)?)?;
    module.add_function(wrap_pyfunction!(pool::memory_total, module)?)?;
    module.add_function(wrap_pyfunction!(pool::memory_available, module)?)?;
    module.add_function(wrap_pyfunction!(pool::private_descriptors, module)?)?;
    module.add("DEBUG", cfg!(debug_assertions))?;
    Ok(())
}
