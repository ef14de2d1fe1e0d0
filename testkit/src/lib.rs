//! What tests stand on: nodes, census, a registry with faults, image builder, CRI client.
