//! Redirects what a container sends to port 53 of its name servers to the ports that the agent serves.
//!
//! The container keeps port 53 for itself: it may run a name server of its own on every address. BPF programs of its
//! cgroup change the port in the address that a process hands to the kernel, and back in those that it gets, so that
//! resolvers which compare the two find them equal. A socket of IPv6 can be given the same addresses, mapped.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::bpf::{
    self, CONTEXT, Instruction, JUMP_UNLESS_EQUAL, LOAD_WORD, MOVE_CONSTANT, STORE_WORD, answer, instruction,
};

/// The port of name servers.
const DOMAIN: u16 = 53;

const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;

// Where the parts of an address are in `struct bpf_sock_addr`, in network order.
const IPV4: i16 = 4;
const IPV6: [i16; 4] = [8, 12, 16, 20];
const PORT: i16 = 24;

/// What is before the IPv4 address in one that is mapped.
const MAPPED: [u32; 3] = [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff])];

/// A register for whatever is looked at.
const VALUE: u8 = 2;

/// Which way an address goes.
#[derive(Clone, Copy)]
enum Way {
    ToKernel,
    FromKernel,
}

/// The kernel's numbers of the places where a program changes an address.
const PLACES: &[(u32, Way, bool)] = &[
    (10, Way::ToKernel, false),   // BPF_CGROUP_INET4_CONNECT
    (14, Way::ToKernel, false),   // BPF_CGROUP_UDP4_SENDMSG
    (19, Way::FromKernel, false), // BPF_CGROUP_UDP4_RECVMSG
    (29, Way::FromKernel, false), // BPF_CGROUP_INET4_GETPEERNAME
    // A datagram to a mapped address passes the place of IPv4.
    (11, Way::ToKernel, true),   // BPF_CGROUP_INET6_CONNECT
    (20, Way::FromKernel, true), // BPF_CGROUP_UDP6_RECVMSG
    (30, Way::FromKernel, true), // BPF_CGROUP_INET6_GETPEERNAME
];

/// Holds until it is dropped.
pub struct Redirection {
    _links: Vec<OwnedFd>,
}

impl Redirection {
    /// Redirects the processes of a cgroup to where these name servers are served.
    pub fn attach(served: &[SocketAddrV4], cgroup: BorrowedFd) -> io::Result<Self> {
        let link = |(place, way, mapped): &(u32, Way, bool)| {
            let program = bpf::load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, *place, &program(served, *way, *mapped))?;
            bpf::link(&program, *place, cgroup)
        };
        Ok(Self {
            _links: PLACES.iter().map(link).collect::<io::Result<_>>()?,
        })
    }
}

fn program(served: &[SocketAddrV4], way: Way, mapped: bool) -> Vec<Instruction> {
    let blocks = served.iter().flat_map(|served| match way {
        Way::ToKernel => block(*served.ip(), mapped, DOMAIN, served.port()),
        Way::FromKernel => block(*served.ip(), mapped, served.port(), DOMAIN),
    });
    blocks.chain(answer(1)).collect()
}

/// Changes the port of one address; ends at the next block if it is another.
fn block(address: Ipv4Addr, mapped: bool, from: u16, to: u16) -> Vec<Instruction> {
    let word = u32::from_ne_bytes(address.octets());
    let port = |port: u16| u32::from(port.to_be());
    let mut wanted: Vec<(i16, u32)> = match mapped {
        false => vec![(IPV4, word)],
        true => IPV6.into_iter().zip([MAPPED.as_slice(), &[word]].concat()).collect(),
    };
    wanted.push((PORT, port(from)));
    let change = [
        vec![
            instruction(MOVE_CONSTANT, VALUE, 0, 0, port(to)),
            instruction(STORE_WORD, CONTEXT, VALUE, PORT, 0),
        ],
        answer(1),
    ]
    .concat();
    let tests = wanted.iter().enumerate().flat_map(|(index, (offset, value))| {
        let to_next_block = 2 * (wanted.len() - index - 1) + change.len();
        [
            instruction(LOAD_WORD, VALUE, CONTEXT, *offset, 0),
            instruction(JUMP_UNLESS_EQUAL, VALUE, 0, to_next_block as i16, *value),
        ]
    });
    tests.chain(change.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::EXIT;

    const SERVED: [SocketAddrV4; 2] = [
        SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 40_001),
        SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 12), 40_002),
    ];

    /// The port after a program has seen an address, as the kernel would run it.
    fn run(way: Way, address: Ipv4Addr, mapped: bool, port: u16) -> u16 {
        let mut context = [0u32; 7];
        let word = u32::from_ne_bytes(address.octets());
        match mapped {
            false => context[1] = word,
            true => context[2..6].copy_from_slice(&[MAPPED[0], MAPPED[1], MAPPED[2], word]),
        }
        context[6] = port.to_be().into();
        let program = program(&SERVED, way, mapped);
        let (mut at, mut value, mut result) = (0, 0, 0);
        loop {
            let one = program[at];
            let (field, immediate) = (one.offset as usize / 4, one.immediate.cast_unsigned());
            match (one.code, one.registers & 15) {
                (LOAD_WORD, VALUE) => value = context[field],
                (STORE_WORD, CONTEXT) => context[field] = value,
                (MOVE_CONSTANT, VALUE) => value = immediate,
                (MOVE_CONSTANT, bpf::RESULT) => result = immediate,
                (JUMP_UNLESS_EQUAL, VALUE) if value != immediate => at += one.offset as usize,
                (JUMP_UNLESS_EQUAL, VALUE) => {}
                (EXIT, _) => break,
                _ => panic!("no such instruction: {one:?}"),
            }
            at += 1;
        }
        assert_eq!(result, 1, "the call is refused");
        u16::from_be(context[6] as u16)
    }

    #[test]
    fn port_53_of_the_name_servers_is_redirected_and_back() {
        for mapped in [false, true] {
            for served in SERVED {
                assert_eq!(run(Way::ToKernel, *served.ip(), mapped, 53), served.port());
                assert_eq!(run(Way::FromKernel, *served.ip(), mapped, served.port()), 53);
            }
        }
    }

    #[test]
    fn all_else_is_left_alone() {
        for mapped in [false, true] {
            let other = Ipv4Addr::new(127, 0, 0, 13);
            assert_eq!(run(Way::ToKernel, other, mapped, 53), 53);
            assert_eq!(run(Way::ToKernel, *SERVED[0].ip(), mapped, 54), 54);
            assert_eq!(run(Way::FromKernel, other, mapped, 40_001), 40_001);
            assert_eq!(run(Way::FromKernel, *SERVED[0].ip(), mapped, 40_002), 40_002);
        }
    }
}
