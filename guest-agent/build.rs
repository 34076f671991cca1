//! Generates the gRPC interface from the proto: the server's half, and the client's for the tests.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .build_transport(false)
        // Data travels as reference-counted slices of the received frame, not as copies.
        .bytes(".")
        .compile_protos(&["proto/agent.proto"], &["proto"])
}
