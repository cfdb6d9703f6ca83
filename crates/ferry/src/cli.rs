//! Commands and their options.
//!
//! Exit status: 0 if all went well, 1 if Ferry could not do what was asked, 2 for a wrong command
//! line; `run`, `receive` and `restore` end with the guest's own code where it wrote one to the
//! exit device, and with 128 and the signal's number if a signal ended them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use machine::AcceleratorChoice;
use transport::tls::PeerName;

/// Exit status of a command that failed.
pub const FAILED: u8 = 1;

/// Runs virtual machines and moves them, live.
#[derive(Debug, Parser)]
#[command(name = "ferry", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a machine.
    Run(Box<RunOptions>),
    /// Wait for a machine that is moved here, and run it. It takes no machine parameters: the
    /// machine comes in the stream.
    Receive(ReceiveOptions),
    /// Run a machine that was saved with `migrate VM file:PATH`.
    Restore(ReceiveOptions),
    /// Move a running machine to tcp:HOST:PORT, unix:PATH, exec:COMMAND or file:PATH.
    Migrate(MigrateOptions),
    /// Let a guest that is being moved run at the destination now; what is missing of its memory
    /// follows it. The migration must have been started with --allow-postcopy, --postcopy or
    /// --postcopy-after.
    Postcopy {
        /// The machine's name.
        vm: String,
    },
    /// List the machines of this user.
    Ps,
    /// Stop a guest.
    Pause {
        /// The machine's name.
        vm: String,
    },
    /// Let a guest go on.
    Resume {
        /// The machine's name.
        vm: String,
    },
    /// End a machine.
    Quit {
        /// The machine's name.
        vm: String,
    },
    /// Print who owns a machine: one that runs here, or the last one of a disk.
    Owner(OwnerOptions),
    /// Say what became of a machine whose move nobody could confirm.
    Resolve(ResolveOptions),
    /// Say what a saved stream holds: one of Ferry's, or one of QEMU's of any machine type.
    Inspect(InspectOptions),
    /// Check all that can be checked of a saved stream, and say what cannot.
    Verify {
        /// The saved stream, Ferry's or QEMU's.
        file: PathBuf,
    },
    /// Say in what two saved streams differ: sections, fields, pages of memory. Exit status 1 if
    /// they do.
    Diff {
        /// A saved stream, Ferry's or QEMU's.
        left: PathBuf,
        /// Another.
        right: PathBuf,
    },
    /// Ask a QEMU that runs here, over its monitor, for its machine, and print that as a machine file
    /// for `ferry receive`. Whatever Ferry does not have, or the guest would see change, is named.
    ImportConfig(ImportOptions),
    /// Print the QEMU command line that builds a machine of Ferry's, and waits for it.
    ExportConfig(ExportOptions),
    /// Say what this host offers to machines, what is missing, and what that costs.
    Doctor,
    /// Make certificates for trying encryption out: a new authority, whose key is not kept, and
    /// one for each host. For nothing that matters.
    MakeTestCa(TestCaOptions),
    /// Show a running guest that moves between two processes, there and back.
    Demo(DemoOptions),
    /// Move a Linux guest that works between processes, again and again, and print how downtime and
    /// total time are distributed. Fails as soon as anything of the guest is lost.
    Soak(SoakOptions),
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// Linux kernel: a bzImage, or an ELF image with a PVH entry point.
    #[arg(long, value_name = "FILE", required_unless_present = "guest", conflicts_with = "guest")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    #[arg(long, value_name = "TEXT", default_value = "", requires = "kernel")]
    pub append: String,
    /// Run the embedded guest that checks itself, instead of a kernel.
    #[arg(long)]
    pub guest: bool,
    /// Rounds of the embedded guest; 0 for no end.
    #[arg(long, default_value_t = 0, requires = "guest")]
    pub rounds: u64,
    /// Pages that the embedded guest rewrites in a round.
    #[arg(long, requires = "guest")]
    pub pages_per_round: Option<u64>,
    /// Milliseconds for which the embedded guest sleeps between rounds.
    #[arg(long, default_value_t = 0, requires = "guest")]
    pub pause: u64,
    /// Machine file (TOML); options for the same thing are then an error.
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["name", "memory", "cpus", "cpu", "hpet", "no_hpet", "clock", "rng",
                               "console", "read_only_disk", "no_promise_tsc", "no_promise_cpuid"])]
    pub machine: Option<PathBuf>,
    /// Name of the machine [default: ferry].
    #[arg(long)]
    pub name: Option<String>,
    /// Memory, such as 512M or 2G [default: 256M].
    #[arg(long, short = 'm')]
    pub memory: Option<String>,
    /// Number of vCPUs [default: 1].
    #[arg(long)]
    pub cpus: Option<u32>,
    /// CPU model [default: qemu64]. The model `host` is this host's processor by KVM, and moves
    /// only to hosts with the same.
    #[arg(long)]
    pub cpu: Option<String>,
    /// Do not promise the guest that its time-stamp counter goes on, at its frequency, wherever it
    /// is moved.
    #[arg(long)]
    pub no_promise_tsc: bool,
    /// Do not promise the guest that CPUID says what the CPU model says, wherever it is moved.
    #[arg(long)]
    pub no_promise_cpuid: bool,
    /// With an HPET (the default).
    #[arg(long, conflicts_with = "no_hpet")]
    pub hpet: bool,
    /// Without an HPET.
    #[arg(long)]
    pub no_hpet: bool,
    /// What time is counted in: host, icount or icount=SHIFT [default: host].
    #[arg(long)]
    pub clock: Option<String>,
    /// With a virtio entropy source.
    #[arg(long)]
    pub rng: bool,
    /// With a virtio console.
    #[arg(long)]
    pub console: bool,
    /// Disk image that the guest may only read: a disk behind those of --disk. Only here: whether
    /// the disk of a machine file, or of a machine that arrives, is read-only is the machine's say.
    #[arg(long, value_name = "FILE")]
    pub read_only_disk: Vec<String>,
    /// Do not let the guest run yet.
    #[arg(long)]
    pub paused: bool,
    #[command(flatten)]
    pub host: HostOptions,
}

#[derive(Debug, Args)]
pub struct HostOptions {
    /// What runs the vCPUs: auto, kvm or soft [default: auto]. See `ferry doctor`.
    #[arg(long, value_name = "NAME")]
    pub accel: Option<AcceleratorChoice>,
    /// Host file (TOML): what backs the machine's devices here.
    #[arg(long, value_name = "FILE")]
    pub host: Option<PathBuf>,
    /// Disk image. With `run` each adds a disk disk0, disk1, ...; with `receive` and `restore` it
    /// is ID=FILE, or FILE for disk0, disk1, ....
    #[arg(long, value_name = "[ID=]FILE")]
    pub disk: Vec<String>,
    /// What is behind a network device: tap:NAME, a persistent tap interface of this host, or null.
    /// With `run` each adds a device net0, net1, ...; with `receive` and `restore` it is
    /// ID=tap:NAME, or tap:NAME for net0, net1, ....
    #[arg(long, value_name = "[ID=]WHAT")]
    pub net: Vec<String>,
    #[command(flatten)]
    pub arbiter: ArbiterOptions,
    /// The operator's word that the machine runs nowhere else, where its record leaves that open:
    /// it was given away to where the record cannot tell, or its owner's host is gone.
    #[arg(long)]
    pub take_ownership: bool,
    /// Where the serial port's characters go: stdio, null or file:PATH [default: stdio].
    #[arg(long, value_name = "WHERE")]
    pub serial: Option<String>,
}

#[derive(Debug, Args)]
pub struct ArbiterOptions {
    /// Who keeps the record of the machine's owner: file (beside the first writable disk, or in
    /// the state folder), etcd://HOST:PORT[,HOST:PORT...], or none [default: file].
    #[arg(long, value_name = "WHO")]
    pub arbiter: Option<String>,
    /// Folder of this host for records of machines without a disk, and for locks [default:
    /// $XDG_STATE_HOME/ferry].
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct OwnerOptions {
    /// The name of a machine that runs here, the file of a disk, or the UUID of a machine.
    pub vm: String,
    #[command(flatten)]
    pub arbiter: ArbiterOptions,
}

#[derive(Debug, Args)]
pub struct ResolveOptions {
    /// The machine's name.
    pub vm: String,
    /// It runs nowhere else: let it go on here. A record that can be read and says otherwise is
    /// believed.
    #[arg(long, conflicts_with = "gone", required_unless_present = "gone")]
    pub run_here: bool,
    /// It runs elsewhere: end it here.
    #[arg(long)]
    pub gone: bool,
}

#[derive(Debug, Args)]
pub struct ReceiveOptions {
    /// tcp:HOST:PORT, unix:PATH, or file:PATH, exec:COMMAND, fd:N.
    pub address: String,
    /// Have a machine that runs here, and whose link to the rest of its memory was lost, listen at
    /// this address for its source. (It also listens where it was received.)
    #[arg(long, value_name = "VM")]
    pub recover: Option<String>,
    /// Who sends the machine. QEMU sends no machine configuration, so it is given with --machine.
    #[arg(long, value_enum, value_name = "WHO", default_value_t = Peer::Ferry)]
    pub from: Peer,
    /// Machine file (TOML) of a machine that comes from QEMU, as `ferry import-config` writes it.
    #[arg(long, value_name = "FILE", required_if_eq("from", "qemu"))]
    pub machine: Option<PathBuf>,
    /// Channels over which QEMU sends memory besides the first, as its parameter multifd-channels
    /// says, if its capability multifd is on.
    #[arg(long, value_name = "CHANNELS", requires = "machine",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    pub multifd: Option<u8>,
    /// QEMU is told to stop the guest before it sends it: let it run as soon as it is here, and refuse
    /// one that ran meanwhile. Without this a stopped guest is paused here, and a running one is taken
    /// with a warning.
    #[arg(long, requires = "machine")]
    pub resume: bool,
    /// For how long the source may be silent before the link is taken for lost, in milliseconds
    /// [default: 10000].
    #[arg(long, value_name = "MS")]
    pub idle_timeout: Option<u64>,
    /// Keep every right that this process has, to debug it: without this it gives up all files and
    /// system calls that it does not need before it reads the first byte.
    #[arg(long)]
    pub no_sandbox: bool,
    /// A folder that the process may go on to use, for a later `migrate VM file:PATH` into it.
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_sandbox")]
    pub sandbox_folder: Vec<PathBuf>,
    #[command(flatten)]
    pub tls: TlsOptions,
    /// Name of a source that may move a machine here, as in its certificate; may be given several
    /// times [default: every source whose certificate is good].
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    pub tls_peer: Vec<PeerName>,
    #[command(flatten)]
    pub host: HostOptions,
}

#[derive(Debug, Args)]
pub struct TlsOptions {
    /// This host's certificate, and those of intermediate authorities (PEM): the move is encrypted,
    /// and each side proves to the other who it is.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the authorities whose word is taken for the other side (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Move in plain text over a network: whoever is on the way can read the guest's memory and
    /// change it, and whoever connects first is believed.
    #[arg(long, conflicts_with = "tls_cert")]
    pub insecure: bool,
}

#[derive(Debug, Args)]
pub struct TestCaOptions {
    /// A folder, made if it is not there.
    pub folder: PathBuf,
    /// Names of hosts.
    #[arg(default_values = ["alpha", "beta"])]
    pub names: Vec<PeerName>,
}

#[derive(Debug, Args)]
pub struct MigrateOptions {
    /// The machine's name.
    pub vm: String,
    /// Where to: tcp:HOST:PORT, unix:PATH, exec:COMMAND or file:PATH.
    pub address: String,
    /// Who waits there. To QEMU only a machine of type microvm can move.
    #[arg(long, value_enum, value_name = "WHO", default_value_t = Peer::Ferry,
          conflicts_with_all = ["postcopy", "postcopy_after", "allow_postcopy", "recover"])]
    pub to: Peer,
    /// For how long the guest may stand still, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub downtime_limit: Option<u64>,
    /// For how long the destination may be silent before the link is taken for lost, in
    /// milliseconds [default: 10000].
    #[arg(long, value_name = "MS")]
    pub idle_timeout: Option<u64>,
    /// Bytes a second at most, such as 100M.
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<String>,
    /// Slow the vCPUs if the guest dirties memory faster than it can be sent.
    #[arg(long)]
    pub throttle: bool,
    /// Let the guest stand still for longer than the limit if it must.
    #[arg(long)]
    pub allow_longer_pause: bool,
    /// Hash all memory again while the guest stands still.
    #[arg(long)]
    pub verify_full: bool,
    /// Rounds at most.
    #[arg(long)]
    pub max_rounds: Option<u32>,
    /// Let the guest run there after the first round of memory; what is missing then follows it.
    #[arg(long, conflicts_with = "postcopy_after")]
    pub postcopy: bool,
    /// The same after so many rounds; 0 for at once.
    #[arg(long, value_name = "ROUNDS")]
    pub postcopy_after: Option<u32>,
    /// The same if the rounds do not converge, or upon `ferry postcopy VM`.
    #[arg(long)]
    pub allow_postcopy: bool,
    /// The guest runs there already, and the link was lost on which its memory followed: go on over
    /// a new one.
    #[arg(long, conflicts_with_all = ["postcopy", "postcopy_after", "allow_postcopy"])]
    pub recover: bool,
    #[command(flatten)]
    pub tls: TlsOptions,
    /// The destination's name, as in its certificate [default: the host in the address].
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    pub tls_peer: Option<PeerName>,
    /// Print every round.
    #[arg(long, short)]
    pub verbose: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectOptions {
    /// The saved stream.
    pub file: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ImportOptions {
    /// QEMU's monitor, which it was started with by `-qmp unix:PATH,server=on,wait=off`: PATH or
    /// tcp:HOST:PORT.
    #[arg(long, value_name = "SOCKET")]
    pub qmp: String,
    /// The machine's name [default: QEMU's, or ferry].
    #[arg(long)]
    pub name: Option<String>,
    /// Frequency of the time-stamp counter of QEMU's host, which its guest sees, in kHz [default:
    /// measured, on this host].
    #[arg(long, value_name = "KHZ")]
    pub tsc_khz: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ExportOptions {
    /// The name of a machine that runs here.
    #[arg(required_unless_present = "machine", conflicts_with = "machine")]
    pub vm: Option<String>,
    /// A machine file (TOML), instead of a machine that runs.
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
    /// For QEMU, the only one that there is a command line for.
    #[arg(long, required = true)]
    pub qemu: bool,
    /// The file of a disk where QEMU will run: ID=FILE, or FILE for disk0, disk1, ... [default: the
    /// file that it has here].
    #[arg(long, value_name = "[ID=]FILE")]
    pub disk: Vec<String>,
    /// Where QEMU waits for the machine: its option -incoming.
    #[arg(long, value_name = "URI", default_value = "tcp:127.0.0.1:4444")]
    pub incoming: String,
}

#[derive(Debug, Args)]
pub struct DemoOptions {
    /// How often the guest moves.
    #[arg(long, default_value_t = 10)]
    pub moves: u32,
    /// Memory of the machine.
    #[arg(long, default_value = "128M")]
    pub memory: String,
    /// Number of vCPUs.
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// What runs the vCPUs; `both` changes it at every move.
    #[arg(long, value_enum, default_value_t = DemoAccelerator::Auto)]
    pub accel: DemoAccelerator,
}

#[derive(Debug, Args)]
pub struct SoakOptions {
    /// Linux kernel, such as tools/linux-guest brings.
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// Initial RAM disk with /bin/busybox, and virtio's modules in /lib/modules, such as
    /// tools/linux-guest brings.
    #[arg(long, value_name = "FILE")]
    pub initrd: PathBuf,
    /// More for the kernel's command line.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub append: String,
    /// How often the guest moves.
    #[arg(long, default_value_t = 300)]
    pub moves: u32,
    /// Memory of the machine.
    #[arg(long, default_value = "256M")]
    pub memory: String,
    /// Number of vCPUs.
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// For how long the guest may stand still, in milliseconds; a move that cannot keep it fails.
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    pub downtime_limit: u64,
    /// What runs the vCPUs; `both` changes it at every move.
    #[arg(long, value_enum, default_value_t = DemoAccelerator::Auto)]
    pub accel: DemoAccelerator,
}

/// Who is at the other end of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Another Ferry.
    Ferry,
    /// A QEMU.
    Qemu,
}

/// Accelerators of the demo's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoAccelerator {
    /// The fastest that runs guests as hardware does.
    Auto,
    /// The software CPU.
    Soft,
    /// KVM.
    Kvm,
    /// The software CPU and KVM in turn.
    Both,
}

impl DemoAccelerator {
    /// The accelerator of the process with this number, from 0.
    pub fn of_process(self, number: u32) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Soft => "soft",
            Self::Kvm => "kvm",
            Self::Both if number.is_multiple_of(2) => "soft",
            Self::Both => "kvm",
        }
    }
}
