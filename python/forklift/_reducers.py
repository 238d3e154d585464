"""What large types need beyond pickle protocol 5, so that their bulk crosses out of band.

Looked up by the exact type, and only for packages that are imported already: nothing is imported here for an object
that cannot be one of theirs. What protocol 5 serves well (pandas, scipy, whole Arrow tables) has no entry. Small
objects are left to their own pickling, and so is every one that would not arrive as the same.

    memoryview        no copy beyond the one that sends it; the receiver's looks at the received memory
    array.array       the receiver's constructor copies once
    masked arrays     data and mask as arrays
    polars            as an Arrow table, whose buffers polars takes as they are
    pyarrow           as protocol 5 does, but a slice does not send what it was cut from
    torch             the storage of tensors on the CPU; everything above it is torch's own
    PIL               pixels as an Arrow array, which the receiver's image keeps as its memory
    multiprocessing   connections and sockets, as their descriptor
"""

from __future__ import annotations

import _pickle
import _thread
import array
import sys

from forklift._native import departing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["reduce_large"]

LARGE_BYTES_MIN = 64 << 10

# A slice that is smaller than this part of what it was cut from is sent alone.
SLICE_PART_MAX = 0.8


def reduce_large(obj: Any) -> Any:
    """Reduce an object of one of the types above; `NotImplemented` leaves it to pickle."""
    kind = type(obj)
    module, name = kind.__module__, kind.__name__
    if module == "pyarrow.lib" and (name in ("Table", "RecordBatch") or name.endswith("Array")):
        return _reduce_arrow(obj)
    reduce = _REDUCERS.get((module, name))
    return NotImplemented if reduce is None else reduce(obj)


# The standard library --------------------------------------------------------------------------------------------


def _reduce_view(view: memoryview) -> Any:
    form, shape = view.format, view.shape or ()
    if len(form.lstrip("@")) != 1 or (0 in shape and view.ndim > 1):
        return NotImplemented  # A format that no view can be cast to.
    data = _pickle.PickleBuffer(view if view.c_contiguous else view.tobytes())
    return build_view, (data, form, shape, view.readonly)


def build_view(data: Any, form: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """Look at received memory in the way in which the sender's view did."""
    view: Any = memoryview(data).cast("B")
    if view.readonly and not readonly:
        view = memoryview(bytearray(view))  # A small one, in the stream, or one that had to be gathered.
    view = view.cast(form) if len(shape) == 1 else view.cast(form, shape)
    made: memoryview = view.toreadonly() if readonly else view
    return made


def _reduce_array(obj: Any) -> Any:
    if type(obj) is not array.array or len(obj) * obj.itemsize < LARGE_BYTES_MIN:
        return NotImplemented
    return build_array, (obj.typecode, _pickle.PickleBuffer(obj))


def build_array(typecode: str, data: Any) -> Any:
    """Copy received memory into an array."""
    made = array.array(typecode)
    made.frombytes(data)
    return made


# NumPy -----------------------------------------------------------------------------------------------------------


def _reduce_masked(obj: Any) -> Any:
    numpy = sys.modules["numpy"]
    if obj.nbytes < LARGE_BYTES_MIN or obj.dtype.hasobject or obj._baseclass is not numpy.ndarray:
        return NotImplemented
    mask = None if obj._mask is numpy.ma.nomask else obj._mask
    return build_masked, (obj.view(numpy.ndarray), mask, obj._fill_value, obj._hardmask, obj._optinfo)


def build_masked(data: Any, mask: Any, fill_value: Any, hard: bool, information: Any) -> Any:
    """Put a masked array together; neither data nor mask is copied."""
    import numpy

    made = data.view(numpy.ma.MaskedArray)
    if mask is not None:
        made._mask = mask
    made._sharedmask = False
    made._fill_value = fill_value
    made._hardmask = hard
    made._optinfo.update(information)
    return made


# Arrow -----------------------------------------------------------------------------------------------------------


def _reduce_arrow(obj: Any) -> Any:
    whole = obj.get_total_buffer_size()
    if whole < LARGE_BYTES_MIN or obj.nbytes > whole * SLICE_PART_MAX:
        return NotImplemented
    arrow = sys.modules["pyarrow"]
    kind = type(obj).__name__
    if kind == "Table":
        return arrow.Table.from_arrays, ([_cut(column) for column in obj.columns], None, obj.schema)
    if kind == "RecordBatch":
        return arrow.RecordBatch.from_arrays, ([_cut(column) for column in obj.columns], None, obj.schema)
    if kind == "ChunkedArray":
        return arrow.chunked_array, ([_cut(chunk) for chunk in obj.chunks], obj.type)
    cut = _cut(obj)
    return NotImplemented if cut is obj else (_same, (cut,))


def _same(obj: Any) -> Any:
    return obj


def _cut(obj: Any) -> Any:
    """The same values over no more memory than they need, without a copy if the type has values of one width."""
    arrow = sys.modules["pyarrow"]
    if type(obj).__name__ == "ChunkedArray":
        return arrow.chunked_array([_cut(chunk) for chunk in obj.chunks], obj.type)
    kind, length, offset = obj.type, len(obj), obj.offset
    fixed = arrow.types.is_primitive(kind) or arrow.types.is_fixed_size_binary(kind)
    if not fixed or kind.bit_width % 8:
        # Offsets count from the start of the memory, and children have their own: Arrow gathers them anew.
        return arrow.concat_arrays([obj, obj.slice(0, 0)])
    skipped, width = offset // 8 * 8, kind.bit_width // 8
    kept = offset - skipped
    valid, values = obj.buffers()
    if valid is not None:
        valid = valid.slice(skipped // 8, (kept + length + 7) // 8)
    values = values.slice(skipped * width, (kept + length) * width)
    return arrow.Array.from_buffers(kind, length, [valid, values], obj.null_count, kept)


def _reduce_polars(obj: Any) -> Any:
    if obj.estimated_size() < LARGE_BYTES_MIN:
        return NotImplemented
    polars = sys.modules["polars"]
    is_series = type(obj) is polars.Series
    frame = obj.to_frame() if is_series else obj
    try:
        table = frame.to_arrow(compat_level=polars.CompatLevel.newest())
        if polars.from_arrow(table.slice(0, 0)).schema != frame.schema:
            return NotImplemented
    except Exception:
        return NotImplemented  # No pyarrow, or columns that Arrow has no type for: polars knows how to send them.
    order = {}
    for column in frame.get_columns():
        flags = column.flags
        if flags.get("SORTED_ASC") or flags.get("SORTED_DESC"):
            order[column.name] = bool(flags.get("SORTED_DESC"))
    return build_polars, (table, is_series, order)


def build_polars(table: Any, is_series: bool, order: dict[str, bool]) -> Any:
    """Build the frame, or its only column, over Arrow's buffers. `order` says of sorted columns: whether downwards."""
    import polars

    frame = polars.from_arrow(table, rechunk=False)
    assert isinstance(frame, polars.DataFrame)
    if order:
        frame = frame.with_columns(
            polars.col(name).set_sorted(descending=descending) for name, descending in order.items()
        )
    return frame.to_series() if is_series else frame


# Tensors and images ----------------------------------------------------------------------------------------------


def _reduce_typed_storage(obj: Any) -> Any:
    untyped = obj._untyped_storage
    if untyped.device.type != "cpu" or untyped.nbytes() < LARGE_BYTES_MIN:
        return NotImplemented
    return build_typed_storage, (untyped, obj.dtype)


def build_typed_storage(untyped: Any, dtype: Any) -> Any:
    """The storage as torch's own reduction of a tensor asks for it."""
    import torch

    make: Any = torch.storage.TypedStorage
    return make(wrap_storage=untyped, dtype=dtype, _internal=True)


def _reduce_storage(obj: Any) -> Any:
    if obj.device.type != "cpu" or obj.nbytes() < LARGE_BYTES_MIN:
        return NotImplemented
    torch = sys.modules["torch"]
    memory = torch.empty(0, dtype=torch.uint8).set_(obj).numpy()
    return build_storage, (_pickle.PickleBuffer(memory),)


def build_storage(data: Any) -> Any:
    """A storage whose memory is the received one."""
    import torch

    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()


# The others have a palette, or fewer bits than bytes.
_IMAGE_MODES = frozenset(
    {"L", "LA", "La", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"}
)


def _reduce_image(obj: Any) -> Any:
    width, height = obj.size
    if obj.mode not in _IMAGE_MODES or 4 * width * height < LARGE_BYTES_MIN:
        return NotImplemented
    try:
        import pyarrow

        pixels = pyarrow.array(obj)
    except Exception:
        return NotImplemented  # No pyarrow, an older Pillow, or an image in several pieces of memory.
    return build_image, (pixels, obj.mode, obj.size, obj.info)


def build_image(pixels: Any, mode: str, size: tuple[int, int], information: Any) -> Any:
    """An image whose memory is the received one; Pillow copies it when it is first written to."""
    from PIL import Image

    made = Image.fromarrow(pixels, mode, size)
    made.info = information
    return made


# multiprocessing -------------------------------------------------------------------------------------------------


# In a thread that only asks whether something can be pickled, nothing is set aside to be handed over.
asking = _thread._local()


def _reduce_descriptor(obj: Any) -> Any:
    """Send an open file of a connection or socket as `multiprocessing` does, which hands it over on request, once.

    A `Connection` would else be pickled as the number of a descriptor, which is another one in the worker.
    """
    if getattr(asking, "whether", False):
        raise RuntimeError(f"{type(obj).__name__} objects reach several workers through inheritance only")
    if departing():
        raise TypeError(f"a {type(obj).__name__} is open on this machine, and cannot be sent to another one")
    from multiprocessing.reduction import ForkingPickler

    reduce = ForkingPickler._extra_reducers.get(type(obj))  # type: ignore[attr-defined]
    return NotImplemented if reduce is None else reduce(obj)


_REDUCERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("builtins", "memoryview"): _reduce_view,
    ("array", "array"): _reduce_array,
    ("multiprocessing.connection", "Connection"): _reduce_descriptor,
    ("socket", "socket"): _reduce_descriptor,
    ("numpy.ma", "MaskedArray"): _reduce_masked,
    ("numpy.ma.core", "MaskedArray"): _reduce_masked,
    ("polars.dataframe.frame", "DataFrame"): _reduce_polars,
    ("polars.series.series", "Series"): _reduce_polars,
    ("torch.storage", "TypedStorage"): _reduce_typed_storage,
    ("torch.storage", "UntypedStorage"): _reduce_storage,
    ("PIL.Image", "Image"): _reduce_image,
}
