//! Generates the stubs from the repository's `proto/`, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::FileDescriptorSet;
use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};

/// What the files import from elsewhere. Its type comes from `tonic-types`.
const STATUS: &str = r#"
syntax = "proto3";
package google.rpc;
import "google/protobuf/any.proto";
message Status {
  int32 code = 1;
  string message = 2;
  repeated google.protobuf.Any details = 3;
}
"#;

struct StatusResolver;

impl FileResolver for StatusResolver {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match name {
            "google/rpc/status.proto" => File::from_source(name, STATUS),
            _ => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("stepwell/v1"))? {
        let name = entry?.file_name().into_string().map_err(|name| format!("{name:?} is no text"))?;
        // The stores of other engines have no use for a worker's language of choice.
        if !name.ends_with("_store.proto") {
            files.push(format!("stepwell/v1/{name}"));
        }
    }
    files.sort();
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(root));
    resolver.add(GoogleFileResolver::new());
    resolver.add(StatusResolver);
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    tonic_prost_build::configure()
        .build_server(false)
        // Its constructor would bear the name of the call `Connect`.
        .build_transport(false)
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(without_code(compiler.file_descriptor_set()))?;
    Ok(())
}

/// What is indented in a comment would be taken for Rust, and for a test.
fn without_code(mut files: FileDescriptorSet) -> FileDescriptorSet {
    let infos = files.file.iter_mut().filter_map(|file| file.source_code_info.as_mut());
    for location in infos.flat_map(|info| &mut info.location) {
        for comment in [&mut location.leading_comments, &mut location.trailing_comments].into_iter().flatten() {
            *comment = comment.replace("\n     ", "\n ");
        }
    }
    files
}
