//! Compiles the protocols without protoc: protox parses them, tonic-prost-build writes the Rust.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let descriptors = protox::compile(["cri.proto", "agent.proto"], ["protos"])?;
    let files = descriptors.file.iter().filter(|file| file.package() == "runtime.v1");
    let paths: Vec<String> = files
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            service.method.iter().map(|method| format!("/runtime.v1.{}/{}", service.name(), method.name()))
        })
        .collect();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("cri_paths.rs"), format!("&{paths:?}"))?;
    // A call that a server does not define answers UNIMPLEMENTED.
    tonic_prost_build::configure().generate_default_stubs(true).compile_fds(descriptors)?;
    Ok(())
}
