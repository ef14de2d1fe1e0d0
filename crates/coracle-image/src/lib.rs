//! References, registries, verification, pulls and the images of a node.
