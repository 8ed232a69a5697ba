//! Tests of whole nodes: one binary, one module per subject.

mod harness;
