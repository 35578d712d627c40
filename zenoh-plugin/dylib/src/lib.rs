//! What a router looks for in the file `libzenoh_plugin_bulkhead.so`.

zenoh_plugin_trait::declare_plugin!(bulkhead_zenoh::Bulkhead);
