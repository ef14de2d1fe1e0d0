//! The database of what outlives a boot and the ledger of what does not.
