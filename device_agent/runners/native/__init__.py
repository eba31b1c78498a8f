"""Native runners: small C++ programs, built on this machine for the device's own processor.

A runtime's Python wheel carries its shared library, and that is all that a device needs beside the
runner: nothing is installed there. `wheels` gets the library of the device's architecture,
`toolchain` finds a compiler for it, `build` compiles and keeps the result, and `runner` brings it
to a device. `ndk` finds library and compiler for Android's own C library instead. `external` starts
a program of the user's.
"""
