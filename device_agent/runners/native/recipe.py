"""What each runtime's native runner is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata

from nasdeploy.errors import UsageError


@dataclass(frozen=True, slots=True)
class AndroidArchive:
    """A runtime for Android, as it is published.

    Attributes:
        published: The archive on Maven; ``VERSION`` stands for its version.
        library: The name of the library with the C interface.
        same_version: The interface changes between versions, so that it has to be the pinned one.
    """

    published: str
    library: str
    same_version: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """One runtime's source, and what it needs of the runtime's wheel.

    Attributes:
        package: As pip knows it; none where no library is needed.
        source: Of the files beside this one.
        libraries: The name that a library is loaded by, and its path in the wheel, in which
            ``{version}`` stands for the runtime's.
        headers: Folders in the wheel that the compiler looks through.
        definitions: For the preprocessor.
        android: None where its Android archive has nothing that our source can be linked with.
    """

    runtime: str
    suffix: str
    package: str
    source: str
    libraries: dict[str, str]
    headers: tuple[str, ...] = ()
    definitions: tuple[str, ...] = field(default=())
    android: AndroidArchive | None = None

    @property
    def version(self) -> str:
        """Of the installed package, which every device gets too, so that they can be compared.

        Raises: `UsageError` when it is not installed.
        """
        if not self.package:
            return ""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            raise UsageError(
                f"The Python package {self.package} is not installed, so that it is not known "
                f"which version of {self.runtime} to measure. Install it: pip install "
                f"{self.package}"
            ) from None

    def library_paths(self) -> dict[str, str]:
        """Paths in the wheel by the name that a library is loaded by."""
        return {n: path.format(version=self.version) for n, path in self.libraries.items()}


def _executorch_libraries(*names: str) -> dict[str, str]:
    return {f"{name}.so": f"executorch/lib/{name}.so" for name in names}


RECIPES: dict[str, Recipe] = {
    recipe.runtime: recipe
    for recipe in (
        Recipe(
            runtime="executorch",
            suffix=".pte",
            package="executorch",
            source="executorch.cpp",
            libraries=_executorch_libraries(
                "libexecutorch",
                "libexecutorch_threadpool",
                "libexecutorch_backend_xnnpack",
                "libexecutorch_kernels_optimized",
                "libexecutorch_kernels_quantized",
            ),
            headers=(
                "executorch/include",
                "executorch/include/executorch/runtime/core/portable_type/c10",
            ),
            # what the wheel's own CMake file asks of everyone who compiles against it
            definitions=(
                "C10_USING_CUSTOM_GENERATED_MACROS",
                "ET_EVENT_TRACER_ENABLED",
                "ET_USE_THREADPOOL",
            ),
        ),
        Recipe(
            runtime="litert",
            suffix=".tflite",
            package="ai-edge-litert",
            source="litert.cpp",
            libraries={"libLiteRt.so": "ai_edge_litert/libLiteRt.so"},
            android=AndroidArchive("litert-VERSION.aar", "libLiteRt.so", same_version=True),
        ),
        Recipe(
            runtime="onnxruntime",
            suffix=".onnx",
            package="onnxruntime",
            source="onnxruntime.cpp",
            libraries={"libonnxruntime.so.1": "onnxruntime/capi/libonnxruntime.so.{version}"},
            android=AndroidArchive(
                "onnxruntime-android-VERSION.aar", "libonnxruntime.so", same_version=False
            ),
        ),
    )
}
