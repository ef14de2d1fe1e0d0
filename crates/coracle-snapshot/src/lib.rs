//! Layers and writable layers as overlay directories.
