//! Builds the peers that are written in C and C++, where their libraries are installed.
//!
//! What is missing is left out with a warning, and looked for again at the next build.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(libuv, asio)");
    for source in ["libuv.c", "asio.cc"] {
        println!("cargo::rerun-if-changed=src/servers/{source}");
    }
    libuv();
    asio();
}

fn libuv() {
    let mut package = pkg_config::Config::new();
    // Its lines for the linker must come behind those of what calls it.
    let package = package.atleast_version("1.40").cargo_metadata(false);
    let Ok(library) = package.probe("libuv") else {
        return leave_out("libuv", "libuv1-dev");
    };
    let mut build = cc::Build::new();
    build.includes(&library.include_paths);
    if !compile(build.file("src/servers/libuv.c"), "peers_libuv") {
        return leave_out("libuv", "libuv1-dev");
    }
    for path in library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for name in library.libs {
        println!("cargo::rustc-link-lib={name}");
    }
    println!("cargo::rustc-cfg=libuv");
}

/// It is headers only, which compile or are not there.
fn asio() {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").cargo_warnings(false);
    if compile(build.file("src/servers/asio.cc"), "peers_asio") {
        println!("cargo::rustc-cfg=asio");
    } else {
        leave_out("asio", "libasio-dev");
    }
}

/// Answers whether there is a compiler, and all that the source includes.
fn compile(build: &mut cc::Build, name: &str) -> bool {
    // The same for both languages as cargo's release profile has for Rust.
    build.opt_level(3).warnings(true).try_compile(name).is_ok()
}

fn leave_out(peer: &str, package: &str) {
    println!("cargo::warning={peer} is left out: it does not compile here (Debian: {package})");
    // A path that is not there has cargo run this anew each time.
    println!("cargo::rerun-if-changed=there-is-no-{peer}");
}
