//! The record in etcd, version 3, spoken to through its JSON gateway.
//!
//! `/ferry/UUID/owner` holds the record, as text. It changes by transactions that compare its whole
//! value (or that there is none). `/ferry/UUID/alive/OWNER` is bound to a lease that every process
//! with a copy of the guest keeps alive, for a fleet to see. **A lease that ends lets nobody run**: a
//! process that is stopped, or cut off, is not dead. A process is known to be dead if it lived on
//! this host, by the same folder for locks, and holds no lock there any more; of another host only
//! the operator knows.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Arbiter, FileArbiter, Hold, Swap, host_name};
use crate::handover::{MAX_RECORD, OwnerId, Record, RecordState, VmId};
use crate::migratable::Cause;

/// How long a lease outlives the process that keeps it alive, in seconds.
const LEASE_SECONDS: u64 = 15;
/// How often it is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(3);
/// The longest answer: a record, or the names of all who are alive.
const MAX_ANSWER: u64 = 256 * 1024;
/// Members of a cluster that are asked at most.
const MAX_MEMBERS: usize = 16;

/// etcd gave no answer, or one that makes no sense.
#[derive(Debug, thiserror::Error)]
enum EtcdError {
    #[error("{0:?} is no address of etcd: etcd://HOST:PORT[,HOST:PORT...]")]
    Address(String),
    #[error("cannot reach etcd at {member}")]
    Unreached { member: String, source: ureq::Error },
    #[error("etcd at {member} gave no answer")]
    NoAnswer { member: String, source: ureq::Error },
    #[error("etcd at {member} answered {status}: {text}")]
    Status { member: String, status: u16, text: String },
    #[error("the answer of etcd at {member} makes no sense: {what}")]
    Answer { member: String, what: &'static str },
    #[error("the record in etcd is none")]
    Record(#[source] crate::handover::RecordError),
    #[error("the machine is in use: {0} is alive")]
    Alive(String),
    #[error(
        "the machine is {0}, by a host that only the operator can look at; \
         if it runs nowhere, --take-ownership starts it"
    )]
    OtherHost(Record),
}

/// The members of one etcd cluster.
#[derive(Clone, Debug)]
struct Client {
    members: Vec<String>,
    agent: ureq::Agent,
}

impl Client {
    fn new(address: &str) -> Result<Self, EtcdError> {
        let wrong = || EtcdError::Address(address.to_owned());
        let list = address.strip_prefix("etcd://").ok_or_else(wrong)?;
        let members: Vec<_> = list.trim_end_matches('/').split(',').map(str::to_owned).collect();
        let is_member = |member: &String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
            let port = member.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
            member.chars().all(plain) && port.is_some_and(|(h, p)| !h.is_empty() && p.is_ok())
        };
        if members.len() > MAX_MEMBERS || !members.iter().all(is_member) {
            return Err(wrong());
        }
        // A connection for each request: one that was broken meanwhile would leave in doubt
        // whether a request was heard.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST))
            .http_status_as_error(false)
            .max_idle_connections(0)
            .proxy(None)
            .max_redirects(0)
            .build();
        Ok(Self { members, agent: config.into() })
    }

    /// Asks the members, in turn, until one is reached.
    fn ask(&self, path: &str, request: &Value) -> Result<Value, EtcdError> {
        let mut unreached = None;
        for member in &self.members {
            match self.ask_one(member, path, request) {
                Err(error @ EtcdError::Unreached { .. }) => unreached = Some(error),
                other => return other,
            }
        }
        Err(unreached.expect("there is a member"))
    }

    fn ask_one(&self, member: &str, path: &str, request: &Value) -> Result<Value, EtcdError> {
        let member = member.to_owned();
        let failed = |source: ureq::Error| {
            let member = member.clone();
            if is_certainly_unsent(&source) {
                EtcdError::Unreached { member, source }
            } else {
                EtcdError::NoAnswer { member, source }
            }
        };
        let mut response = self
            .agent
            .post(format!("http://{member}/v3/{path}"))
            .content_type("application/json")
            .send(request.to_string())
            .map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        let text = body
            .read_to_string()
            .map_err(|source| EtcdError::NoAnswer { member: member.clone(), source })?;
        if status != 200 {
            let text = text.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(EtcdError::Status { member, status, text });
        }
        serde_json::from_str(&text).map_err(|_| EtcdError::Answer { member, what: "it is no JSON" })
    }

    fn answer(&self, what: &'static str) -> EtcdError {
        EtcdError::Answer { member: self.members.join(","), what }
    }

    /// The value in a list of keys and values, which holds one at most.
    fn record(&self, kvs: &Value) -> Result<Option<Record>, EtcdError> {
        let Some(value) = kvs.get(0).and_then(|kv| kv.get("value")) else { return Ok(None) };
        let value = value.as_str().and_then(|text| decode(text, MAX_RECORD));
        let value = value.ok_or_else(|| self.answer("the value is no base64"))?;
        Record::from_text(&value).map(Some).map_err(EtcdError::Record)
    }
}

/// True if no byte of the request can have been heard.
fn is_certainly_unsent(error: &ureq::Error) -> bool {
    use std::io::ErrorKind;

    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => true,
        ureq::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::AddrNotAvailable
        ),
        _ => false,
    }
}

/// Base64 with the standard alphabet and padding (RFC 4648, section 4).
fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let six = (word >> (18 - 6 * at)) as usize & 0x3f;
            text.push(if at <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    text
}

/// What [`encode`] has made, of so many bytes at most.
fn decode(text: &str, most: usize) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) || text.len() > most.div_ceil(3) * 4 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        let mut count = 0;
        for character in chunk {
            let six = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => break,
                _ => return None,
            };
            word = word << 6 | u32::from(six);
            count += 1;
        }
        let word = word << (6 * (4 - count));
        bytes.extend(&word.to_be_bytes()[1..][..(count * 6 / 8) as usize]);
    }
    // One meaning per byte: padding in the middle, or bits that say nothing, are none.
    (encode(&bytes) == text).then_some(bytes)
}

/// Keeps a lease alive until it is dropped.
struct Lease {
    end: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Lease {
    fn start(client: Client, key: String) -> Result<Self, Cause> {
        let mut id = grant(&client, &key)?;
        let (end, ended) = channel();
        let keep = move || loop {
            match ended.recv_timeout(KEEP_ALIVE) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    // If it is not heard, the lease ends by itself.
                    let _ = client.ask("lease/revoke", &json!({ "ID": id }));
                    return;
                }
            }
            // Nothing depends on it: a lease that has ended is only granted anew.
            let kept = client.ask("lease/keepalive", &json!({ "ID": id }));
            let lives = kept.is_ok_and(|kept| {
                // A lease that has ended has no time left, or none is said.
                kept["result"]["TTL"].as_str().is_some_and(|seconds| seconds != "0")
            });
            if !lives && let Ok(new) = grant(&client, &key) {
                id = new;
            }
        };
        let thread = std::thread::Builder::new().name("etcd lease".to_owned()).spawn(keep)?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.end.send(());
        if let Some(thread) = self.thread.take() {
            // It ends within a request's time.
            let _ = thread.join();
        }
    }
}

/// A new lease with this key bound to it.
fn grant(client: &Client, key: &str) -> Result<String, EtcdError> {
    let granted = client.ask("lease/grant", &json!({ "TTL": LEASE_SECONDS.to_string() }))?;
    let id = granted["ID"].as_str().ok_or_else(|| client.answer("the lease has no number"))?;
    let put = json!({ "key": key, "value": "", "lease": id });
    client.ask("kv/put", &put)?;
    Ok(id.to_owned())
}

/// A record in etcd.
pub struct EtcdArbiter {
    vm: VmId,
    client: Client,
    address: String,
    /// Only its lock is used: who on this host lives.
    here: FileArbiter,
    host: String,
    lease: Option<Lease>,
}

impl EtcdArbiter {
    /// The record of a machine in the cluster at `etcd://HOST:PORT[,HOST:PORT...]`. Processes of
    /// this host see each other in `folder`, which is no other host's.
    ///
    /// # Errors
    /// If the address is none, or the folder cannot be made. Nobody is asked yet.
    pub fn new(vm: VmId, address: &str, folder: &Path) -> Result<Self, Cause> {
        let client = Client::new(address)?;
        let here = FileArbiter::in_folder(vm, folder)?;
        let host = Self::host_of(folder)?;
        Ok(Self { vm, client, address: address.to_owned(), here, host, lease: None })
    }

    /// The name of this host as far as processes with this folder for locks are concerned: a file
    /// in the folder tells it from every other one.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn host_of(folder: &Path) -> io::Result<String> {
        fs::create_dir_all(folder)?;
        let path = folder.join("host-id");
        loop {
            match fs::read(&path) {
                Ok(id) if id.len() == 16 => return Ok(host_name(&id)),
                // Somebody died while it was written: nobody has used it yet.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let id = crate::random::identity();
            let new = folder.join(format!("host-id.{}", machine::format_uuid(&id)));
            fs::write(&new, id)?;
            // The first one stays: whoever comes later reads it.
            let linked = fs::hard_link(&new, &path);
            fs::remove_file(&new)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }

    fn name(&self, what: &str) -> String {
        format!("/ferry/{}/{what}", machine::format_uuid(&self.vm))
    }

    fn key(&self) -> String {
        encode(self.name("owner").as_bytes())
    }

    fn found(&self) -> Result<Option<Record>, EtcdError> {
        let answer = self.client.ask("kv/range", &json!({ "key": self.key() }))?;
        self.client.record(&answer["kvs"])
    }

    /// The processes that keep a lease alive.
    ///
    /// # Errors
    /// If etcd cannot be asked.
    pub fn alive(&self) -> Result<Vec<String>, Cause> {
        let prefix = self.name("alive/");
        // The next key after all that begin so: '0' follows '/'.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let range = json!({
            "key": encode(prefix.as_bytes()),
            "range_end": encode(end.as_bytes()),
            "keys_only": true,
        });
        let answer = self.client.ask("kv/range", &range)?;
        let keys = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |kv: &Value| {
            let key = decode(kv["key"].as_str()?, 1024)?;
            Some(String::from_utf8(key).ok()?.strip_prefix(&prefix)?.to_owned())
        };
        let names: Option<Vec<_>> = keys.iter().map(name).collect();
        Ok(names.ok_or_else(|| self.client.answer("a key is no text"))?)
    }

    /// Nobody may be alive, as far as can be told, who has a copy of the guest.
    fn check_alone(&self, by_force: bool, me: &OwnerId) -> Result<(), Cause> {
        // Whoever lived here holds no lock any more, whatever is left of a lease.
        let here = format!("{}/", me.host());
        if let Some(other) = self.alive()?.into_iter().find(|name| !name.starts_with(&here)) {
            return Err(EtcdError::Alive(other).into());
        }
        let Some(record) = self.found()? else { return Ok(()) };
        let here = |id: &OwnerId| id.host() == me.host();
        let dead = match &record.state {
            // Whoever lived here has let go of the lock.
            RecordState::Owned => here(&record.owner),
            RecordState::Granted { from } => here(&record.owner) && here(from),
            // The rules for a start say what these mean.
            RecordState::Away { .. } | RecordState::Free => true,
        };
        if dead || by_force { Ok(()) } else { Err(EtcdError::OtherHost(record).into()) }
    }
}

impl Arbiter for EtcdArbiter {
    fn vm(&self) -> VmId {
        self.vm
    }

    fn read(&mut self) -> Result<Option<Record>, Cause> {
        // A range request is linearizable unless it asks not to be.
        Ok(self.found()?)
    }

    fn compare_and_swap(&mut self, expected: Option<&Record>, new: &Record) -> Swap {
        let key = self.key();
        let compare = match expected {
            None => json!({ "key": key, "target": "VERSION", "version": "0", "result": "EQUAL" }),
            Some(record) => {
                let value = encode(record.to_text().as_bytes());
                json!({ "key": key, "target": "VALUE", "value": value, "result": "EQUAL" })
            }
        };
        let put = json!({ "key": key, "value": encode(new.to_text().as_bytes()) });
        let transaction = json!({
            "compare": [compare],
            "success": [{ "requestPut": put }],
            "failure": [{ "requestRange": { "key": key } }],
        });
        match self.client.ask("kv/txn", &transaction) {
            // Without a header it is somebody else's answer.
            Ok(answer) if answer["header"]["revision"].is_string() => {
                // A field that is false is left out (JSON mapping of proto3).
                if answer["succeeded"].as_bool().unwrap_or(false) {
                    return Swap::Swapped;
                }
                match self.client.record(&answer["responses"][0]["response_range"]["kvs"]) {
                    Ok(found) => Swap::Lost(found),
                    Err(error) => Swap::Refused(error.into()),
                }
            }
            Ok(_) => Swap::Unknown(self.client.answer("it has no header").into()),
            Err(error @ EtcdError::Unreached { .. }) => Swap::Refused(error.into()),
            Err(error) => Swap::Unknown(error.into()),
        }
    }

    fn hold(&mut self, hold: Hold, me: &OwnerId) -> Result<(), Cause> {
        if self.lease.is_some() {
            return Ok(());
        }
        self.here.hold(hold, me)?;
        let held = match hold {
            Hold::Alone { by_force } => self.check_alone(by_force, me),
            Hold::Beside => Ok(()),
        };
        let key = encode(self.name(&format!("alive/{me}")).as_bytes());
        match held.and_then(|()| Lease::start(self.client.clone(), key)) {
            Ok(lease) => {
                self.lease = Some(lease);
                Ok(())
            }
            Err(error) => {
                self.here.let_go();
                Err(error)
            }
        }
    }

    fn let_go(&mut self) {
        self.lease = None;
        self.here.let_go();
    }

    fn host(&self) -> String {
        self.host.clone()
    }

    fn another(&self) -> Box<dyn Arbiter> {
        let Self { vm, client, address, here, host, lease: _ } = self;
        Box::new(Self {
            vm: *vm,
            client: client.clone(),
            address: address.clone(),
            here: here.without_hold(),
            host: host.clone(),
            lease: None,
        })
    }

    fn place(&self) -> String {
        format!("{} {}", self.address, self.name("owner"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text, 100), Some(bytes.as_bytes().to_vec()));
        }
        for wrong in ["Zg", "Zg=", "Zh==", "Z===", "Zg==Zg==", "Zm9*", "====", "=m9v"] {
            assert_eq!(decode(wrong, 100), None, "{wrong}");
        }
        assert_eq!(decode("Zm9vYmFy", 3), None);
    }

    #[test]
    fn addresses_are_checked() {
        for right in ["etcd://127.0.0.1:2379", "etcd://a.b:1,c-d:2/", "etcd://[::1]:2379"] {
            assert!(Client::new(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "http://a:1",
            "etcd://",
            "etcd://a",
            "etcd://:1",
            "etcd://a:port",
            "etcd://a:99999",
            "etcd://a:1,",
            "etcd://a:1/v3?x=b:1",
            "etcd://user@a:1",
        ] {
            assert!(Client::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_listening_is_a_certain_refusal() {
        let folder = std::env::temp_dir().join(format!("ferry-etcd-{}", std::process::id()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("etcd://{}", listener.local_addr().unwrap());
        drop(listener);
        let mut arbiter = EtcdArbiter::new([1; 16], &address, &folder).unwrap();
        assert!(arbiter.read().is_err());
        let record = Record::first([1; 16], OwnerId::new("a", [1; 16]));
        assert!(matches!(arbiter.compare_and_swap(None, &record), Swap::Refused(_)));
        drop(arbiter);
        let _ = std::fs::remove_dir_all(folder);
    }
}
