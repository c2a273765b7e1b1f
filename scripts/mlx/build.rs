//! Takes the place of mlx-sys's build script where MLX is not built from
//! source: compiles mlx-c against the MLX that is installed in `MLX_PREFIX`,
//! and links to both.

use std::env;
use std::path::PathBuf;

#[path = "src/bindgen_config.rs"]
#[allow(dead_code)]
mod bindgen_config;

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    println!("cargo:rerun-if-env-changed=MLX_PREFIX");
    let crate_root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let mlx = PathBuf::from(variable("MLX_PREFIX"));
    let mlx_c = PathBuf::from("src/mlx-c");

    let built = cmake::Config::new(&mlx_c)
        .define("MLX_C_USE_SYSTEM_MLX", "ON")
        .define("MLX_C_BUILD_EXAMPLES", "OFF")
        .define("MLX_DIR", mlx.join("share/cmake/MLX"))
        .define("CMAKE_BUILD_TYPE", "Release")
        .cxxflag(format!("-include {}", crate_root.join("std_format.h").display()))
        .build();
    println!("cargo:rustc-link-search=native={}/lib", built.display());
    println!("cargo:rustc-link-search=native={}/lib", mlx.display());
    println!("cargo:rustc-link-lib=static=mlxc");
    println!("cargo:rustc-link-lib=dylib=mlx");
    println!("cargo:rustc-link-lib=dylib=stdc++");

    let headers = bindgen_config::discover_headers(&mlx_c).expect("the headers of mlx-c");
    bindgen_config::builder(&mlx_c, &headers)
        .generate()
        .expect("bindings to mlx-c")
        .write_to_file(PathBuf::from(variable("OUT_DIR")).join("bindings.rs"))
        .expect("a file for the bindings");
}
