//! Links the unwinder into the program instead of loading `libgcc_s.so.1` with it.
//!
//! Half of a short command is the loading of the program. That library alone is a tenth of it: it is mapped, and asks
//! the processor what it can do before `main`, which under a hypervisor is a trap each time. The linker is shown a
//! `libgcc_s.so` that is a script and names the static archives of the compiler. Where they are not found, or another
//! system is built for, all stays as usual.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|set| set == value);
    let usual = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let native = env::var("TARGET").ok() == env::var("HOST").ok();
    if usual && native && archives_exist() {
        // Failing to write the script leaves the linker with the library.
        if let Some(folder) = env::var_os("OUT_DIR")
            && fs::write(Path::new(&folder).join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n").is_ok()
        {
            println!("cargo::rustc-link-search=native={}", Path::new(&folder).display());
        }
    }
}

/// True if the compiler that links has its run-time library as archives.
fn archives_exist() -> bool {
    ["libgcc_eh.a", "libgcc.a"].iter().all(|name| {
        let found = Command::new("cc").arg(format!("-print-file-name={name}")).output();
        // The name alone is the answer where there is no such file.
        found.is_ok_and(|found| Path::new(String::from_utf8_lossy(&found.stdout).trim()).is_absolute())
    })
}
