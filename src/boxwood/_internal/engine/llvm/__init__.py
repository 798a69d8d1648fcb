"""LLVM: text of the intermediate representation, machine code, the cache of objects."""
