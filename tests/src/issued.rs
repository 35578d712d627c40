//! Devices' identities: how the exchange's are found and revoked, and certificates that are like them.

use crate::stack::Stack;
use crate::wait::eventually;
use bulkhead_policy::{Status, Tenant};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::Value;

/// A change of a tenant.
type Change = Box<dyn Fn(&mut Tenant)>;

impl Stack {
    /// The id that the audit log has of the credentials that a device got last.
    pub async fn issued_id(&self, device: &str) -> String {
        let found = || {
            let detail = |record: Value| {
                let detail = record["detail"].as_str()?.to_owned();
                let rest = detail.strip_prefix(&format!("device {device}, id "))?;
                Some(rest.split(',').next()?.to_owned())
            };
            let issued = self.audit().into_iter().filter(|r| r["event"] == "credential_issued");
            issued.filter_map(detail).next_back()
        };
        eventually("the issue is written down", || found().is_some()).await;
        found().unwrap()
    }

    /// Cuts off a device of acme that has credentials of the exchange: by their `id`, their `origin` (the id
    /// `origin/of <device>` of the token that they were asked for with), the `device`, everything that is
    /// older than now (`superseded`), or else the tenant. Says the reason's code.
    pub async fn cut_off(&self, cause: &str, device: &str) -> &'static str {
        let later = Timestamp::now() + SignedDuration::from_hours(1);
        let (change, code): (Change, _) = match cause {
            "id" | "origin" => {
                let revoked = match cause {
                    "id" => self.issued_id(device).await,
                    _ => format!("origin/of {device}"),
                };
                let revoke = move |t: &mut Tenant| {
                    t.revoked_tokens.insert(revoked.parse().unwrap(), later);
                };
                (Box::new(revoke), "token_revoked")
            }
            "device" => {
                let device = device.to_owned();
                let revoke = move |t: &mut Tenant| {
                    t.revoked_devices.insert(device.parse().unwrap(), Timestamp::now());
                };
                (Box::new(revoke), "device_revoked")
            }
            "superseded" => {
                (Box::new(move |t| t.tokens_valid_from = Some(later)), "token_superseded")
            }
            _ => (Box::new(|t| t.status = Status::Suspended), "tenant_suspended"),
        };
        self.change("acme", change).await;
        code
    }

    /// Lets everything of acme count again that is older than now, and waits until the service knows.
    pub async fn let_in_again(&self) {
        self.change("acme", |t| t.tokens_valid_from = None).await;
        let (acme, directory) = ("acme".parse().unwrap(), self.control().auth().directory());
        eventually("tokens count again", || {
            directory.tenant(&acme).is_ok_and(|acme| acme.tokens_valid_from.is_none())
        })
        .await;
    }

    /// A certificate of the exchange's own authority with this name in it, and its key, in PEM.
    pub fn certified(&self, uri: Option<&str>) -> (String, String) {
        let read = |name: &str| std::fs::read_to_string(self.folder().join(name)).unwrap();
        let key = KeyPair::from_pem(&read("exchange/ca.key")).unwrap();
        certify(&read("exchange/ca.pem"), &key, uri)
    }

    /// Certificates with this name in them that the exchange's authority did not sign: of another
    /// authority, of one that took the name of ours, and of its own making.
    pub fn foreign_certificates(&self, uri: &str) -> [(String, String); 3] {
        let ca = std::fs::read_to_string(self.folder().join("exchange/ca.pem")).unwrap();
        let stranger = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let strange = params.self_signed(&stranger).unwrap().pem();
        let own = rcgen::generate_simple_self_signed(["cam-1".to_owned()]).unwrap();
        [
            certify(&strange, &stranger, Some(uri)),
            certify(&ca, &stranger, Some(uri)),
            (own.cert.pem(), own.signing_key.serialize_pem()),
        ]
    }
}

/// A certificate of an authority with the names of a good one, and its key, in PEM.
fn certify(cert: &str, key: &KeyPair, uri: Option<&str>) -> (String, String) {
    let issuer = Issuer::from_ca_cert_pem(cert, key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "cam-1");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names =
        uri.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let own = KeyPair::generate().unwrap();
    (params.signed_by(&own, &issuer).unwrap().pem(), own.serialize_pem())
}
