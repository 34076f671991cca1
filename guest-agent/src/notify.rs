//! The notification socket of a container (sd_notify(3)): a socket of the host cannot be reached from here, so that the
//! container gets one of the guest, and the host is told what comes to it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::net::UnixDatagram;

use crate::error::{Error, Result};

/// Holds a directory for each container that has a socket, for its mounts to show.
const DIRECTORY: &str = "/run/vruntime/notify";
const NAME: &str = "notify.sock";

/// Longest datagram that is passed on whole.
const MAX_DATAGRAM: usize = 4096;

/// A socket, which ends with this.
pub struct NotifySocket {
    socket: UnixDatagram,
    directory: PathBuf,
}

impl NotifySocket {
    /// Makes it; every user of the container may write to it.
    pub fn make(container: &str) -> Result<Self> {
        let directory = Path::new(DIRECTORY).join(container);
        let make = || {
            fs::create_dir_all(&directory)?;
            let path = directory.join(NAME);
            let socket = UnixDatagram::bind(&path)?;
            fs::set_permissions(path, Permissions::from_mode(0o666))?;
            Ok::<_, std::io::Error>(socket)
        };
        match make() {
            Ok(socket) => Ok(Self { socket, directory }),
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                Err(Error::kernel(format!("make {}/{NAME}", directory.display()), error))
            }
        }
    }

    /// The next datagram.
    pub async fn receive(&self) -> Result<Bytes> {
        let mut datagram = [0; MAX_DATAGRAM];
        let received = self.socket.recv(&mut datagram).await;
        let length = received.map_err(|error| Error::kernel("receive a notification", error))?;
        Ok(Bytes::copy_from_slice(&datagram[..length]))
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // What is left would cost some memory of the guest, no more.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
