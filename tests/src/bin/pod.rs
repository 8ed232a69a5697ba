//! The process inside a pod: serves and dials as it is told on its standard input.

fn main() -> std::io::Result<()> {
    mesh_tests::helper::run()
}
