//! Generates the server's half of the gRPC interface from the proto.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        // Data travels as reference-counted slices of the received frame, not as copies.
        .bytes(".")
        .compile_protos(&["proto/agent.proto"], &["proto"])
}
