"""The fields of a NIfTI header that place an image, kept as they are so that results are written with the same ones."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np

from seg_transfer.util.records import Record

MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Code of a unit of length -> its mm; without a unit the numbers are mm, as in all programs."""
MM_CODE = 2

_SFORM = ("srow_x", "srow_y", "srow_z")
_QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


class NiftiGeometry(Record):
    """qform, sform, their codes and the unit of a NIfTI header.

    Programs differ in which of the two forms they believe. A file with the same fields lies where the first one lies
    in all of them.

    Attributes:
        version: 1 or 2, of NIfTI.
        units: ``xyzt_units``: codes of the units of length and time.
        pixdim: ``qfac``, and the spacing along ``(i, j, k)``, in the file's unit.
        qform_code: Coordinate system of the qform; 0: there is none.
        qform: ``quatern_b``, ``c`` and ``d``, ``qoffset_x``, ``y`` and ``z``.
        sform_code: Coordinate system of the sform; 0: there is none.
        sform: ``srow_x``, ``srow_y`` and ``srow_z``, one after the other.
    """

    version: Literal[1, 2]
    units: int
    pixdim: tuple[float, float, float, float]
    qform_code: int
    qform: tuple[float, float, float, float, float, float]
    sform_code: int
    sform: tuple[float, float, float, float, float, float, float, float, float, float, float, float]

    @classmethod
    def of(cls, header: Any, version: Literal[1, 2]) -> Self:
        """The fields of nibabel's header; numbers that are not finite, of a form that is not in use, become 0."""
        fields = {
            "pixdim": header["pixdim"][:4],
            "qform": np.array([header[name] for name in _QFORM]),
            "sform": np.concatenate([header[name] for name in _SFORM]),
        }
        return cls(
            version=version,
            units=int(header["xyzt_units"]),
            qform_code=int(header["qform_code"]),
            sform_code=int(header["sform_code"]),
            **{name: np.where(np.isfinite(values), values, 0).tolist() for name, values in fields.items()},
        )

    def in_mm(self) -> Self:
        """The same place with the millimetre as its unit."""
        factor = MM[self.units & 7]
        of_axes = np.array([factor] * 3)
        return self.model_copy(
            update={
                "units": self.units & ~7 | MM_CODE,
                "pixdim": (self.pixdim[0], *(np.array(self.pixdim[1:]) * of_axes).tolist()),
                "qform": (*self.qform[:3], *(np.array(self.qform[3:]) * of_axes).tolist()),
                "sform": tuple((np.array(self.sform) * factor).tolist()),
            }
        )

    def write_to(self, header: Any) -> None:
        """Set the fields of another header of nibabel."""
        header["xyzt_units"] = self.units
        header["pixdim"][:4] = self.pixdim
        header["qform_code"], header["sform_code"] = self.qform_code, self.sform_code
        for name, value in zip(_QFORM, self.qform, strict=True):
            header[name] = value
        for name, row in zip(_SFORM, np.reshape(self.sform, (3, 4)), strict=True):
            header[name] = row
