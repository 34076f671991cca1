//! The virtual machine as a whole.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use tonic::{Request, async_trait};

use super::{Outcome, Response, proto, uninterrupted};
use crate::boot;
use crate::container::Containers;
use crate::error::{Error, Result};
use crate::held::SHARE;
use crate::server::Shutdown;

/// How many random bytes the host may send.
const ENTROPY: std::ops::RangeInclusive<usize> = 32..=512;

/// A virtio-fs tag is a name of at most 36 bytes.
const MAX_TAG: usize = 36;

const NANOSECONDS: i64 = 1_000_000_000;

pub struct Service {
    pub containers: Arc<Containers>,
    pub shutdown: Shutdown,
}

#[async_trait]
impl proto::sandbox_server::Sandbox for Service {
    async fn configure(&self, request: Request<proto::ConfigureRequest>) -> Outcome<proto::ConfigureResponse> {
        let request = request.into_inner();
        set_clock(request.wall_clock_ns)?;
        credit_entropy(&request.entropy)?;
        mount_share(&request.share_tag)?;
        let times = boot::start_times();
        Ok(Response::new(proto::ConfigureResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: kernel_release()?,
            init_usec: times.init_usec,
            ready_usec: times.ready_usec,
        }))
    }

    async fn shutdown(&self, _: Request<proto::ShutdownRequest>) -> Outcome<proto::ShutdownResponse> {
        let containers = self.containers.clone();
        uninterrupted(async move {
            containers.end_all().await;
            nix::unistd::sync();
            Ok(())
        })
        .await?;
        self.shutdown.begin();
        Ok(Response::new(proto::ShutdownResponse {}))
    }
}

fn set_clock(wall_clock_ns: i64) -> Result<()> {
    if wall_clock_ns < 0 {
        return Err(Error::InvalidArgument(format!(
            "wall_clock_ns {wall_clock_ns} is negative"
        )));
    }
    let time = TimeSpec::new(wall_clock_ns / NANOSECONDS, wall_clock_ns % NANOSECONDS);
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(|error| Error::kernel("set the clock", error))
}

/// `struct rand_pool_info` of linux/random.h, with the largest buffer that is accepted.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    length: libc::c_int,
    bytes: [u8; *ENTROPY.end()],
}

/// RNDADDENTROPY: _IOW('R', 0x03, int [2]).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;

fn credit_entropy(entropy: &[u8]) -> Result<()> {
    if !ENTROPY.contains(&entropy.len()) {
        let message = format!(
            "entropy of {} bytes is not between {} and {}",
            entropy.len(),
            ENTROPY.start(),
            ENTROPY.end()
        );
        return Err(Error::InvalidArgument(message));
    }
    let length = entropy.len() as libc::c_int;
    let mut pool = Pool {
        entropy_bits: length * 8,
        length,
        bytes: [0; *ENTROPY.end()],
    };
    pool.bytes[..entropy.len()].copy_from_slice(entropy);
    let credit = || -> io::Result<()> {
        let device = std::fs::File::options().write(true).open("/dev/random")?;
        // SAFETY: RNDADDENTROPY reads a rand_pool_info with `length` bytes behind it, which `pool` is.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &pool) };
        Ok(Errno::result(result).map(drop)?)
    };
    credit().map_err(|error| Error::kernel("add entropy", error))
}

fn mount_share(tag: &str) -> Result<()> {
    if tag.is_empty() {
        return Ok(());
    }
    if tag.len() > MAX_TAG || tag.contains('\0') {
        return Err(Error::InvalidArgument(format!(
            "share_tag of {} bytes is no tag",
            tag.len()
        )));
    }
    // What is mounted below has these flags as well: a container is to have what its configuration says, as on runc.
    let flags = MsFlags::empty();
    let share = || -> io::Result<()> {
        std::fs::create_dir_all(SHARE)?;
        Ok(mount(Some(tag), SHARE, Some("virtiofs"), flags, None::<&str>)?)
    };
    share().map_err(|error| Error::kernel(format!("mount the shared directory {tag:?} on {SHARE}"), error))
}

fn kernel_release() -> Result<String> {
    let uname = nix::sys::utsname::uname().map_err(|error| Error::kernel("ask for the kernel's release", error))?;
    Ok(uname.release().to_string_lossy().chars().take(64).collect())
}
