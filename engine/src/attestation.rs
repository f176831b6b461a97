//! Whether a device that wishes to register is who it says it is.

use registry::{DeviceKeys, DeviceStatus, Enrolment, EnrolmentId, SasError, SasToken};

use crate::access::{AccessRules, Refusal};
use crate::monitor::Claim;
use crate::request::{Attested, EngineError, Proof, UnauthorizedReason};

/// The key name that clients write into such tokens [azure-iot-security-symmetric-key: symmetric_key.js].
const KEY_NAME: &str = "registration";

/// A proof that was read and fits its registration, not yet verified.
pub(crate) struct ReadProof<'a> {
    token: SasToken<'a>,
    registration: &'a EnrolmentId,
    claim: Claim,
}

impl<'a> ReadProof<'a> {
    /// Read a token for `{scope}/registrations/{registration}`.
    pub fn read(proof: &'a Proof) -> Result<Self, Refusal> {
        let claim = Claim::Device(proof.registration.device().clone());
        let refused = |reason| Refusal { claim: claim.clone(), error: EngineError::Unauthorized(reason) };
        let token =
            SasToken::parse(proof.token.reveal()).map_err(|_| refused(UnauthorizedReason::Malformed))?;
        let resource = token.resource();
        let fits = match resource.segments.as_slice() {
            [collection, id] => {
                collection.eq_ignore_ascii_case("registrations")
                    && id.eq_ignore_ascii_case(proof.registration.as_str())
            }
            _ => false,
        };
        let is_registration = token.policy().is_none_or(|name| name.eq_ignore_ascii_case(KEY_NAME));
        if !fits || !is_registration || !resource.host.eq_ignore_ascii_case(&proof.scope) {
            return Err(refused(UnauthorizedReason::NotCovered));
        }
        Ok(Self { token, registration: &proof.registration, claim })
    }

    /// Verify it against the keys that the enrolment gives this registration. Only the keys' holder is told that the enrolment
    /// is disabled.
    pub fn verify(
        &self,
        enrolment: &Enrolment,
        rules: &AccessRules,
        now_s: u64,
    ) -> Result<Attested, Refusal> {
        let keys = self.keys(enrolment);
        self.token.verify_with_keys(&keys.both(), now_s, rules.token_skew_s).map_err(|error| {
            self.refused(match error {
                SasError::Expired => UnauthorizedReason::Expired,
                _ => UnauthorizedReason::Signature,
            })
        })?;
        if enrolment.status == DeviceStatus::Disabled {
            return Err(Refusal { claim: self.claim.clone(), error: EngineError::EnrolmentDisabled });
        }
        Ok(Attested {
            registration: self.registration.clone(),
            enrolment: enrolment.reference(),
            device: enrolment.device.clone().unwrap_or_else(|| self.registration.device().clone()),
            keys,
        })
    }

    /// Verify it against each of these until one has signed it.
    pub fn verify_with_any<'b>(
        &self,
        enrolments: impl Iterator<Item = &'b Enrolment>,
        rules: &AccessRules,
        now_s: u64,
    ) -> Result<Attested, Refusal> {
        let none = self.refused(UnauthorizedReason::Signature);
        let mut verified = enrolments.map(|enrolment| self.verify(enrolment, rules, now_s));
        verified.find(|result| !matches!(result, Err(refusal) if *refusal == none)).unwrap_or(Err(none))
    }

    /// A derived key depends on how the device writes its id.
    fn keys(&self, enrolment: &Enrolment) -> DeviceKeys {
        let written = self.token.resource().segments.last().map_or("", String::as_str);
        enrolment.keys_of(written)
    }

    fn refused(&self, reason: UnauthorizedReason) -> Refusal {
        Refusal { claim: self.claim.clone(), error: EngineError::Unauthorized(reason) }
    }
}
