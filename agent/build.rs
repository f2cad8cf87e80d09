//! Makes the agent small: every guest's boot reads it whole, and it stays in every guest's memory.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["--strip-all", "--icf=all", "--pack-dyn-relocs=relr"] {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}
