//! QEMU's debugger stub, by the GDB remote serial protocol: stop the machine, look, damage, go on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to the stub; the machine is stopped by [`Debugger::stop`].
pub struct Debugger {
    stream: UnixStream,
}

impl Debugger {
    /// Connects, and stops the machine.
    pub fn stop(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the stub listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut debugger = Self { stream };
        // Connecting stops the machine; that is reported once unasked and once as asked here.
        assert!(debugger.ask("?").starts_with('T'));
        assert!(debugger.packet().starts_with('T'));
        // Registers can be had one by one only after their description was read.
        assert!(debugger.ask("qXfer:features:read:target.xml:0,ff").starts_with(['l', 'm']));
        debugger
    }

    /// Reads guest memory.
    pub fn read(&mut self, address: u64, length: usize) -> Vec<u8> {
        let reply = self.ask(&format!("m{address:x},{length:x}"));
        assert_eq!(reply.len(), 2 * length, "{reply}");
        (0..length)
            .map(|index| u8::from_str_radix(&reply[2 * index..2 * index + 2], 16))
            .collect::<Result<_, _>>()
            .expect("hexadecimal")
    }

    /// Inverts the lowest bit of a byte of guest memory.
    pub fn flip(&mut self, address: u64) {
        let byte = self.read(address, 1)[0] ^ 1;
        assert_eq!(self.ask(&format!("M{address:x},1:{byte:02x}")), "OK");
    }

    /// Inverts the lowest bit of a byte of a register, by its number in the stub's numbering.
    pub fn flip_register(&mut self, number: u32, byte: usize) {
        let mut value = self.ask(&format!("p{number:x}"));
        let place = 2 * byte..2 * byte + 2;
        let byte = u8::from_str_radix(&value[place.clone()], 16).expect("hexadecimal") ^ 1;
        value.replace_range(place, &format!("{byte:02x}"));
        assert_eq!(self.ask(&format!("P{number:x}={value}")), "OK");
    }

    /// Lets the machine run and leaves.
    pub fn leave(mut self) {
        assert_eq!(self.ask("D"), "OK");
    }

    /// Sends a packet, gives back the contents of the answer.
    fn ask(&mut self, text: &str) -> String {
        let sum = text.bytes().fold(0u8, u8::wrapping_add);
        self.stream.write_all(format!("${text}#{sum:02x}").as_bytes()).expect("a stream");
        self.packet()
    }

    fn packet(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut contents = String::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => contents.push(char::from(byte)),
            }
        }
        // The checksum: the stream is a local socket, which damages nothing.
        self.byte();
        self.byte();
        self.stream.write_all(b"+").expect("a stream");
        contents
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("the stub answers");
        byte[0]
    }
}
