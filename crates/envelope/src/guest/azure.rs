//! The configuration blob that Azure's own scripts put keys back from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vmkeep_model::DiskName;
use zeroize::Zeroizing;

use super::{CapturedKeys, GuestKeysError};

/// The keys of the OS disk as the JSON that a restore job of Azure Backup leaves and its documented scripts read: an object
/// `OsDiskKeyAndSecretDetails` with `KeyUrl`, `KeyBackupData` (base64), `SecretUrl`, `SecretData` and
/// `KeyVaultSecretBackupData` (base64); what there is none of is null. It holds the secret in the clear.
///
/// The blobs are those of the store that the keys came from; a key vault of Azure restores only its own.
pub fn azure_config(keys: &CapturedKeys, os_disk: &DiskName) -> Result<Zeroizing<Vec<u8>>, GuestKeysError> {
    let captured = keys.disks.iter().find(|captured| captured.disk == *os_disk);
    let captured = captured.ok_or_else(|| malformed(format!("none of disk {os_disk}")))?;
    let secret = std::str::from_utf8(captured.bek.value.value.expose())
        .map_err(|_| malformed(format!("the secret of disk {os_disk} is not text")))?;
    let base64 = |blob: Option<&Vec<u8>>| blob.map(|blob| STANDARD.encode(blob));
    let key_url = captured.kek.as_ref().map(|kek| kek.url.to_string());
    let key_backup = base64(captured.kek.as_ref().and_then(|kek| kek.backup.as_ref()));
    let secret_backup = base64(captured.bek.backup.as_ref());
    let secret_url = captured.bek.url.to_string();
    let fields = [
        ("KeyBackupData", key_backup.as_deref()),
        ("KeyUrl", key_url.as_deref()),
        ("SecretData", Some(secret)),
        ("SecretUrl", Some(secret_url.as_str())),
        ("KeyVaultSecretBackupData", secret_backup.as_deref()),
    ];
    // Room for the worst escaping: a vector that grows would leave the secret behind in the memory it gives up.
    let room =
        fields.iter().map(|(name, value)| name.len() + 6 * value.map_or(4, str::len) + 8).sum::<usize>();
    let mut json = Zeroizing::new(Vec::with_capacity(room + 64));
    json.extend_from_slice(b"{\"OsDiskKeyAndSecretDetails\":{");
    for (at, (name, value)) in fields.into_iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        let written = serde_json::to_writer(&mut *json, name).and_then(|()| {
            json.push(b':');
            serde_json::to_writer(&mut *json, &value)
        });
        written.map_err(|e| malformed(e.to_string()))?;
    }
    json.extend_from_slice(b"}}");
    Ok(json)
}

fn malformed(what: String) -> GuestKeysError {
    GuestKeysError::Malformed { what }
}
