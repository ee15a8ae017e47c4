//! Tokens of SoftHSM, each in a folder of its own.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put the library.
const MODULES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// Says to a process that a test started for itself where its token is.
const FOLDER: &str = "VMKEEP_TEST_TOKEN";

/// A token with an RSA key and an AES key, which programs see that have [`ENV`](Self::ENV) set to [`conf`](Self::conf).
#[derive(Debug)]
pub struct Token {
    folder: PathBuf,
    module: PathBuf,
}

impl Token {
    /// The variable that tells SoftHSM where its configuration is.
    pub const ENV: &str = "SOFTHSM2_CONF";
    /// The token's label.
    pub const LABEL: &str = "vmkeep test";
    /// The user's PIN.
    pub const PIN: &str = "1234";
    /// The label of its RSA key pair of 2048 bits, whose id is 01.
    pub const RSA: &str = "rsa-kek";
    /// The label of its AES-256 key, whose id is 01.
    pub const AES: &str = "aes-kek";

    /// Makes a token in an empty folder, or gives `None` when SoftHSM or OpenSC is not here. Under `VMKEEP_REQUIRE_TOOLS`
    /// that is a failure.
    ///
    /// # Panics
    /// When the tools are here and fail.
    pub fn create(folder: &Path) -> Option<Self> {
        let found = Self::in_folder(folder);
        let tools = ["softhsm2-util", "pkcs11-tool"].map(is_here);
        let Some(token) = found.filter(|_| tools == [true; 2]) else {
            let message = "missing: SoftHSM or OpenSC (Debian packages softhsm2, opensc)";
            assert!(env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
            eprintln!("skipped; {message}");
            return None;
        };
        let tokens = folder.join("tokens");
        fs::create_dir_all(&tokens).expect("a folder for tokens can be made");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(token.conf(), conf).expect("the configuration can be written");
        let mut init = Command::new("softhsm2-util");
        init.args([
            "--init-token",
            "--free",
            "--label",
            Self::LABEL,
            "--so-pin",
            "12345678",
            "--pin",
            Self::PIN,
        ]);
        token.run(&mut init);
        token.generate_rsa(Self::RSA, "01");
        token.generate_aes(Self::AES, "01");
        Some(token)
    }

    /// Runs `body` with a token in a process that has no other: a library reads its configuration once, from the
    /// environment of its process. For that the test program is run again, with this test alone.
    ///
    /// `test` is the whole name of the calling test, modules and all.
    ///
    /// # Panics
    /// When `body` does, or when there is no such test.
    pub fn run_alone(test: &str, body: impl FnOnce(&Self)) {
        if let Some(folder) = env::var_os(FOLDER) {
            let token = Self::in_folder(Path::new(&folder)).expect("the library was found before");
            return body(&token);
        }
        let folder =
            env::temp_dir().join(format!("vmkeep-token-{}-{}", std::process::id(), test.replace(':', "_")));
        fs::create_dir_all(&folder).expect("a folder for the test can be made");
        if let Some(token) = Self::create(&folder) {
            let program = env::current_exe().expect("a test program knows where it is");
            let mut command = Command::new(program);
            command.args([test, "--exact", "--nocapture"]).env(FOLDER, &folder);
            let output = token.environment(&mut command).output().expect("a test program runs twice");
            let (said, complained) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && said.contains("1 passed"), "{test}:\n{said}{complained}");
        }
        let _ = fs::remove_dir_all(&folder);
    }

    /// Makes an RSA key pair of 2048 bits; `id` in hex.
    pub fn generate_rsa(&self, label: &str, id: &str) {
        self.tool(["--keypairgen", "--key-type", "rsa:2048", "--label", label, "--id", id]);
    }

    /// Makes an AES-256 key that cannot be read; `id` in hex.
    pub fn generate_aes(&self, label: &str, id: &str) {
        self.tool(["--keygen", "--key-type", "AES:32", "--sensitive", "--label", label, "--id", id]);
    }

    /// Puts an AES-256 key on the token that is known outside.
    ///
    /// # Panics
    /// When the tools fail.
    pub fn import_aes(&self, key: [u8; 32], label: &str, id: &str) {
        let file = self.folder.join("import");
        fs::write(&file, key).expect("a key can be written");
        let words =
            ["--type", "secrkey", "--key-type", "AES:32", "--sensitive", "--label", label, "--id", id];
        let file = file.to_str().expect("the folder's name is UTF-8");
        self.tool(["--write-object", file].into_iter().chain(words));
    }

    /// Destroys an AES key.
    pub fn destroy_aes(&self, label: &str, id: &str) {
        self.tool(["--delete-object", "--type", "secrkey", "--label", label, "--id", id]);
    }

    /// Destroys the private half of an RSA key pair.
    pub fn destroy_rsa(&self, label: &str, id: &str) {
        self.tool(["--delete-object", "--type", "privkey", "--label", label, "--id", id]);
    }

    /// The library.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// SoftHSM's configuration.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// Lets a program see this token, and no other.
    pub fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env(Self::ENV, self.conf())
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let module = MODULES.iter().map(Path::new).find(|module| module.exists())?;
        Some(Self { folder: folder.to_owned(), module: module.to_owned() })
    }

    fn tool(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(&self.module);
        command.args(["--token-label", Self::LABEL, "--login", "--pin", Self::PIN]).args(words);
        self.run(&mut command);
    }

    fn run(&self, command: &mut Command) {
        let output = self.environment(command).output().expect("the program is here");
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {complained}");
    }
}

fn is_here(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
