//! What a change does, and what it leaves alone.
