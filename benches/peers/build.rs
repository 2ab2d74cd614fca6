//! Builds the peers that are written in C and C++, if their libraries are installed.
//!
//! If a library is missing, its peer is left out with a warning. The next build tries again.

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
    // The linker flags are printed below, because they must follow the library that calls libuv.
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

/// Builds the asio peer. asio has only headers, so a successful compilation shows that it is
/// installed.
fn asio() {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").cargo_warnings(false);
    if compile(build.file("src/servers/asio.cc"), "peers_asio") {
        println!("cargo::rustc-cfg=asio");
    } else {
        leave_out("asio", "libasio-dev");
    }
}

/// Compiles a peer. Returns false if this fails, for example because a header is missing.
fn compile(build: &mut cc::Build, name: &str) -> bool {
    // Optimisation level of cargo's release profile.
    build.opt_level(3).warnings(true).try_compile(name).is_ok()
}

fn leave_out(peer: &str, package: &str) {
    println!("cargo::warning={peer} is left out: cannot compile it (Debian: install {package})");
    // A path that does not exist makes cargo run this script again at each build.
    println!("cargo::rerun-if-changed=there-is-no-{peer}");
}
