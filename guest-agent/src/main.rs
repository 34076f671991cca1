//! The guest agent.

mod init;

fn main() {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "init") {
        init::run();
    }
}
