//! Real etcd processes to test against: a cluster on free loopback ports, with the faults that real ones have.
//!
//! Each member ends with its handle, or with the thread that started it, whichever is first. Nothing listens on any
//! address but loopback.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, Identity, Permission, PermissionType, TlsOptions,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use registry::Config;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::OnceCell,
    time::{Instant, sleep},
};

use crate::ports::{self, PortLease};

/// Patience for a cluster to answer; an election takes about a second, a busy machine longer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Somebody else may take a port between its choice and its use.
const START_TRIES: usize = 5;
const ROOT: &str = "root";
const ROOT_PASSWORD: &str = "root-secret";

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// 1 or 3. Default: 1.
    pub n_members: usize,
    /// TLS towards clients, who must show a certificate of the same authority. Default: false.
    pub is_tls: bool,
    /// How long a login is good for, in whole seconds. Default: etcd's, 300 s.
    pub login_ttl: Option<Duration>,
}

/// A running cluster.
pub struct Etcd {
    dir: TempDir,
    options: EtcdOptions,
    members: Vec<Member>,
    is_login_demanded: bool,
    /// The test's own client, connected at its first use.
    client: OnceCell<Client>,
    /// A member that is down for a while finds its ports free when it returns.
    _ports: Vec<PortLease>,
}

/// One process of it.
pub struct Member {
    name: String,
    dir: PathBuf,
    args: Vec<String>,
    endpoint: String,
    process: Option<Child>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            n_members: 1,
            is_tls: false,
            login_ttl: None,
        }
    }
}

impl Etcd {
    /// Starts a cluster and waits until it answers; None, and a loud line, where etcd is not installed.
    ///
    /// A CI that runs without etcd proves nothing, so there it is a failure.
    pub async fn start(options: EtcdOptions) -> Option<Self> {
        if !is_installed().await {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "etcd is not installed, and CI must not pass without it"
            );
            eprintln!("\nSKIPPED: etcd is not installed\n");
            return None;
        }
        for _ in 0..START_TRIES {
            if let Some(etcd) = Self::try_start(&options).await {
                return Some(etcd);
            }
        }
        panic!("etcd did not start in {START_TRIES} tries");
    }

    /// How a program of ours reaches this cluster, without a user.
    pub fn config(&self) -> Config {
        let file = |name: &str| self.options.is_tls.then(|| self.dir.path().join(name));
        Config {
            endpoints: self.endpoints(),
            ca_file: file("ca.pem"),
            cert_file: file("client.pem"),
            key_file: file("client-key.pem"),
            ..Config::default()
        }
    }

    /// How a program of ours reaches it as a user, with a password of its own file.
    pub fn config_of(&self, user: &str, password: &str) -> Config {
        let password_file = self.dir.path().join(format!("{user}.password"));
        std::fs::write(&password_file, format!("{password}\n"))
            .expect("a temporary folder is writable");
        Config {
            username: Some(user.to_owned()),
            password_file: Some(password_file),
            ..self.config()
        }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|it| it.endpoint.clone()).collect()
    }

    /// Members count from 0.
    pub fn member(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    /// A client for the test itself, with every right.
    pub async fn client(&self) -> Client {
        let client = self.client.get_or_try_init(|| self.connect()).await;
        client.expect("the cluster was up a moment ago").clone()
    }

    /// Switches logins on and adds a user who may read and write under a prefix.
    pub async fn demand_login(&mut self, user: &str, password: &str, prefix: &str) {
        self.add_users(user, password, prefix)
            .await
            .expect("a fresh cluster takes users");
        self.is_login_demanded = true;
        self.client.take();
    }

    async fn try_start(options: &EtcdOptions) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary folder can be made");
        if options.is_tls {
            write_certificates(dir.path()).expect("certificates can be made and written");
        }
        let ports = free_ports(options.n_members * 2);
        let members = plan(dir.path(), options, &ports);
        let mut etcd = Self {
            dir,
            options: options.clone(),
            members,
            is_login_demanded: false,
            client: OnceCell::new(),
            _ports: ports,
        };
        etcd.members.iter_mut().for_each(Member::spawn);
        let deadline = Instant::now() + READY_WITHIN;
        while !etcd.is_ready().await {
            if Instant::now() > deadline || etcd.members.iter_mut().any(Member::has_exited) {
                eprintln!("etcd did not start: {}", etcd.log_tails());
                return None;
            }
            sleep(ASK_EVERY).await;
        }
        Some(etcd)
    }

    async fn is_ready(&self) -> bool {
        let ask = async { self.connect().await?.get("ready", None).await };
        matches!(
            tokio::time::timeout(Duration::from_secs(2), ask).await,
            Ok(Ok(_))
        )
    }

    async fn connect(&self) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_timeout(Duration::from_secs(10));
        if self.is_login_demanded {
            options = options
                .with_user(ROOT, ROOT_PASSWORD)
                .with_auto_token_refresh(true);
        }
        if self.options.is_tls {
            options = options.with_tls(self.tls_options());
        }
        let client = Client::connect(self.endpoints(), Some(options)).await?;
        Ok(client)
    }

    fn tls_options(&self) -> TlsOptions {
        let read = |name: &str| {
            std::fs::read(self.dir.path().join(name)).expect("it was written at the start")
        };
        TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")))
            .identity(Identity::from_pem(
                read("client.pem"),
                read("client-key.pem"),
            ))
    }

    async fn add_users(
        &self,
        user: &str,
        password: &str,
        prefix: &str,
    ) -> Result<(), etcd_client::Error> {
        let mut client = self.client().await;
        client.role_add(user).await?;
        let permission = Permission::new(PermissionType::Readwrite, prefix).with_prefix();
        client.role_grant_permission(user, permission).await?;
        client.user_add(user, password, None).await?;
        client.user_grant_role(user, user).await?;
        client.user_add(ROOT, ROOT_PASSWORD, None).await?;
        client.user_grant_role(ROOT, ROOT).await?;
        client.auth_enable().await?;
        Ok(())
    }

    fn log_tails(&self) -> String {
        self.members.iter().map(Member::log_tail).collect()
    }
}

// === impl Member ===

impl Member {
    /// It goes on existing and says nothing, like a machine whose disk hangs.
    pub fn hang(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process
                .kill()
                .await
                .expect("a process of ours can be killed");
        }
    }

    /// Ends it politely: it hands its leadership over first.
    pub async fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        if let Some(mut process) = self.process.take() {
            process
                .wait()
                .await
                .expect("a process of ours can be waited for");
        }
    }

    /// Starts it again with the data it had.
    pub fn restart(&mut self) {
        assert!(
            self.process.is_none(),
            "a member is stopped before it is started"
        );
        self.spawn();
    }

    /// Starts it again with nothing.
    pub fn restart_empty(&mut self) {
        std::fs::remove_dir_all(&self.dir).expect("it had data");
        self.restart();
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("a temporary folder is writable");
        let mut command = Command::new("etcd");
        command
            .args(&self.args)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .kill_on_drop(true);
        end_with_parent(&mut command);
        self.process = Some(command.spawn().expect("etcd is installed"));
    }

    fn has_exited(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|it| !matches!(it.try_wait(), Ok(None)))
    }

    #[expect(
        unsafe_code,
        reason = "the standard library has no way to send any signal but SIGKILL"
    )]
    fn signal(&self, signal: libc::c_int) {
        let pid = self
            .process
            .as_ref()
            .and_then(Child::id)
            .expect("a member runs when it is signalled");
        let pid = libc::pid_t::try_from(pid).expect("the kernel's process ids fit its own type");
        // SAFETY: kill takes two integers; the process was not waited for, so its id is still its own.
        let res = unsafe { libc::kill(pid, signal) };
        assert_eq!(
            res,
            0,
            "a process of ours can be signalled: {}",
            io::Error::last_os_error()
        );
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        format!(
            "\n{}:\n{}",
            self.name,
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    }
}

async fn is_installed() -> bool {
    let version = Command::new("etcd")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.await.is_ok_and(|it| it.success())
}

/// A test that is killed takes its etcd with it.
#[expect(
    unsafe_code,
    reason = "the parent-death signal is set between fork and exec"
)]
fn end_with_parent(command: &mut Command) {
    let die = || {
        // SAFETY: prctl with PR_SET_PDEATHSIG takes two integers and is async-signal-safe.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(die) };
}

// How a cluster is laid out.

fn plan(dir: &Path, options: &EtcdOptions, ports: &[PortLease]) -> Vec<Member> {
    let ports: Vec<u16> = ports.iter().map(PortLease::number).collect();
    let (client_ports, peer_ports) = ports.split_at(options.n_members);
    let peers: Vec<String> = peer_ports
        .iter()
        .enumerate()
        .map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}"))
        .collect();
    let peers = peers.join(",");
    let ports = client_ports.iter().zip(peer_ports).enumerate();
    ports
        .map(|(i, (client, peer))| member(dir, options, i, *client, *peer, &peers))
        .collect()
}

fn member(
    dir: &Path,
    options: &EtcdOptions,
    i: usize,
    client: u16,
    peer: u16,
    peers: &str,
) -> Member {
    let name = format!("m{i}");
    let scheme = if options.is_tls { "https" } else { "http" };
    let endpoint = format!("{scheme}://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let data = dir.join(&name);
    let mut args = vec![
        format!("--name={name}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={endpoint}"),
        format!("--advertise-client-urls={endpoint}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={peers}"),
        "--initial-cluster-state=new".to_owned(),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    args.extend(
        options
            .login_ttl
            .map(|it| format!("--auth-token-ttl={}", it.as_secs())),
    );
    if options.is_tls {
        args.extend(tls_args(dir));
    }
    Member {
        name,
        dir: data,
        args,
        endpoint,
        process: None,
    }
}

fn tls_args(dir: &Path) -> [String; 4] {
    let file = |name: &str| dir.join(name).display().to_string();
    [
        "--client-cert-auth=true".to_owned(),
        format!("--trusted-ca-file={}", file("ca.pem")),
        format!("--cert-file={}", file("server.pem")),
        format!("--key-file={}", file("server-key.pem")),
    ]
}

fn free_ports(n_ports: usize) -> Vec<PortLease> {
    let lease = |_| ports::free().expect("loopback has free ports");
    (0..n_ports).map(lease).collect()
}

/// An authority, a certificate for the members, and one for clients.
fn write_certificates(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "test authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    std::fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    for name in ["server", "client"] {
        let key = KeyPair::generate()?;
        let cert = leaf(name)?.signed_by(&key, &issuer)?;
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem())?;
        std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem())?;
    }
    Ok(())
}

fn leaf(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // etcd's gateway calls its own member with the server's certificate, so both may do both.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}
