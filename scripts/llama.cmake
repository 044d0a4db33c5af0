# Leave out llama.cpp's own command-line programs, which the Python binding does not use. A normal
# variable hides the cache entry that the source distribution forces.
set(LLAMA_BUILD_COMMON OFF)
