//! CNI configuration and results, the stock plugins in process, address management, port maps.
