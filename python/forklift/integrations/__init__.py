"""Forklift within other libraries. Each module here imports its library; this one imports none."""

from __future__ import annotations

__all__ = ["register_joblib"]


def register_joblib(make_default: bool = False) -> None:
    """Make `"forklift"` a back end of joblib, for `Parallel(backend=...)` and `parallel_config(backend=...)`.

    ```python
    import forklift
    import joblib

    forklift.register_joblib()
    with joblib.parallel_config("forklift", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(abs)(number) for number in range(-3, 3))
    ```

    Workers are kept between calls and end after five minutes without any. An array of `max_nbytes` or more (joblib's
    own setting, 1 MB) crosses once in a call of `Parallel`, whatever number of tasks hold it, in shared memory: there
    is no file, so `temp_folder` and `mmap_mode` mean nothing here. A task may write to its arrays, and no other sees
    it; with loky they are read-only.

    `parallel_config("forklift", ...)` also takes options of `forklift.Pool` (`memory_limit`, `retries`, `initializer`
    and so on), and `idle_worker_timeout` in seconds.

    Args:
        make_default: use it wherever no back end is named.

    Raises:
        ImportError: if joblib is not installed.
    """
    import joblib

    from forklift.integrations.joblib import ForkliftBackend

    joblib.register_parallel_backend("forklift", ForkliftBackend, make_default=make_default)
