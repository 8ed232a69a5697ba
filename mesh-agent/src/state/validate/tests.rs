//! What the registry refuses, and the field it names.
