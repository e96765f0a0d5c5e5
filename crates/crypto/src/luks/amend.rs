//! Changing key slots, in an order in which a power cut at any write leaves a slot that opens.
//!
//! | change | order |
//! |---|---|
//! | a slot is filled | material, barrier, header, barrier |
//! | a slot is erased | header, barrier, random bytes over the material, barrier |
//! | the only active slot is replaced (by force) | a free slot is filled, then the slot, then the free one is erased |
//!
//! Until the barrier behind the header, other active slots are untouched. Messages: §6 of the LUKS notes.

use diskimg_core::options::ParsedOptions;
use diskimg_core::{BlockDevice, Error, Opener, Result, Secret, Task, to_usize};
use zeroize::Zeroizing;

use super::header::{Header, KeySlot};
use super::kdf;
use super::key::{MasterKey, fill_random};
use super::slots::unlock_with;
use crate::limits::{DEFAULT_ITER_TIME, ERASE_PASSES, SALT_LEN, SLOTS};

/// What key slots shall become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Filled with the master key under a new password.
    Active,
    /// Erased.
    Inactive,
}

impl SlotState {
    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "active" => Some(Self::Active),
            "inactive" => Some(Self::Inactive),
            _ => None,
        }
    }
}

/// A change of key slots.
#[derive(Clone, Debug)]
pub struct AmendOptions {
    /// What the slots become.
    pub state: SlotState,
    /// This slot.
    pub keyslot: Option<i64>,
    /// The slots that this password opens, with the identifier of its secret.
    pub old_secret: Option<Named>,
    /// The password for what becomes active.
    pub new_secret: Option<Named>,
    /// Milliseconds that it shall take to derive the key of the slot.
    pub iter_time: Option<u64>,
}

/// A secret with the identifier that it goes by.
#[derive(Clone, Debug)]
pub struct Named {
    /// The identifier, for messages.
    pub id: String,
    /// The secret.
    pub secret: Secret,
}

impl Named {
    fn find(opener: &dyn Opener, id: Option<String>) -> Result<Option<Self>> {
        let Some(id) = id else { return Ok(None) };
        let secret = opener.secret(&id)?;
        Ok(Some(Self { id, secret }))
    }

    fn password(&self) -> Result<&[u8]> {
        self.secret.password(&self.id)
    }
}

impl AmendOptions {
    /// An empty change.
    #[must_use]
    pub const fn new(state: SlotState) -> Self {
        Self { state, keyslot: None, old_secret: None, new_secret: None, iter_time: None }
    }

    /// From the options `state`, `keyslot`, `old-secret`, `new-secret` and `iter-time`, each with `prefix` (`""`, or
    /// `"encrypt."` in qcow2) in front of it.
    ///
    /// # Errors
    /// `InvalidArg` without a state, for one that does not exist and for unknown secrets, in qemu-img's words.
    pub fn from_options(options: &ParsedOptions, prefix: &str, opener: &dyn Opener) -> Result<Self> {
        let text = |name: &str| options.get_str(&format!("{prefix}{name}"));
        let number = |name: &str| options.get_number(&format!("{prefix}{name}"));
        let state = text("state").ok_or_else(|| Error::invalid("Parameter 'state' is missing"))?;
        let state = SlotState::from_name(&state)
            .ok_or_else(|| Error::invalid(format!("Parameter 'state' does not accept value '{state}'")))?;
        Ok(Self {
            state,
            keyslot: number("keyslot").map(u64::cast_signed),
            old_secret: Named::find(opener, text("old-secret"))?,
            new_secret: Named::find(opener, text("new-secret"))?,
            iter_time: number("iter-time"),
        })
    }
}

/// Changes key slots of the volume whose header starts at byte `base` of `device`. `own_password` is one that opens
/// the volume; `force` does what can make the contents unreadable for good.
///
/// # Errors
/// `InvalidArg` for what is refused (nothing has been written then), in qemu-img's words; the device's.
pub fn amend(
    device: &dyn BlockDevice,
    base: u64,
    header: &mut Header,
    options: &AmendOptions,
    own_password: &[u8],
    force: bool,
) -> Result<()> {
    Change { device, base, header, task: Task::quiet() }.run(options, own_password, force)
}

struct Change<'a> {
    device: &'a dyn BlockDevice,
    base: u64,
    header: &'a mut Header,
    task: Task<'a>,
}

impl Change<'_> {
    fn run(&mut self, options: &AmendOptions, own_password: &[u8], force: bool) -> Result<()> {
        match options.state {
            SlotState::Active => self.activate(options, own_password, force),
            SlotState::Inactive => self.deactivate(options, force),
        }
    }

    fn activate(&mut self, options: &AmendOptions, own_password: &[u8], force: bool) -> Result<()> {
        let Some(new) = &options.new_secret else {
            return Err(Error::invalid("'new-secret' is required to activate a keyslot"));
        };
        if options.old_secret.is_some() {
            return Err(Error::invalid("'old-secret' must not be given when activating keyslots"));
        }
        let number = match options.keyslot {
            Some(number) => self.number(number)?,
            None => self
                .free_slot()
                .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"))?,
        };
        let replaces = self.slot(number).active;
        if replaces && !force {
            let text = format!("Refusing to overwrite active keyslot {number} - please erase it first");
            return Err(Error::invalid(text));
        }
        let key = unlock_with(self.device, self.base, self.header, own_password, &self.task)?.key;
        let millis = options.iter_time.unwrap_or(DEFAULT_ITER_TIME);
        let iterations = kdf::iterations(self.header.hash, self.header.key_len(), millis, 1)?;
        let password = new.password()?;
        let spare = self.free_slot().filter(|_| replaces && self.active_slots() == 1);
        if let Some(spare) = spare {
            self.fill(spare, &key, password, iterations)?;
        }
        self.fill(number, &key, password, iterations)?;
        match spare {
            Some(spare) => self.erase(spare),
            None => Ok(()),
        }
    }

    fn deactivate(&mut self, options: &AmendOptions, force: bool) -> Result<()> {
        if options.new_secret.is_some() {
            return Err(Error::invalid("'new-secret' must not be given when erasing keyslots"));
        }
        if options.iter_time.is_some() {
            return Err(Error::invalid("'iter-time' must not be given when erasing keyslots"));
        }
        let old = options.old_secret.as_ref().map(Named::password).transpose()?;
        match (options.keyslot, old) {
            (Some(number), old) => self.erase_slot(number, old, force),
            (None, Some(old)) => self.erase_matching(old, force),
            (None, None) => Err(Error::invalid(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in \
                 them must be given",
            )),
        }
    }

    fn erase_slot(&mut self, number: i64, old: Option<&[u8]>, force: bool) -> Result<()> {
        let number = self.number(number)?;
        if let Some(old) = old
            && !self.opens(number, old)?
        {
            let text =
                format!("Given keyslot {number} doesn't contain the given old password for erase operation");
            return Err(Error::invalid(text));
        }
        let active = self.slot(number).active;
        if !force && !active {
            return Err(Error::invalid(format!("Given keyslot {number} is already erased (inactive) ")));
        }
        if !force && self.active_slots() == 1 {
            return Err(Error::invalid(format!(
                "Attempt to erase the only active keyslot {number} which will erase all the data in the \
                 image irreversibly - refusing operation"
            )));
        }
        self.erase(number)
    }

    fn erase_matching(&mut self, old: &[u8], force: bool) -> Result<()> {
        let mut matching = Vec::new();
        for number in 0..SLOTS {
            if self.opens(number, old)? {
                matching.push(number);
            }
        }
        if matching.is_empty() {
            return Err(Error::invalid("No keyslots match given (old) password for erase operation"));
        }
        if !force && matching.len() == self.active_slots() {
            return Err(Error::invalid(
                "All the active keyslots match the (old) password that was given and erasing them will erase \
                 all the data in the image irreversibly - refusing operation",
            ));
        }
        for number in matching {
            self.erase(number)?;
        }
        Ok(())
    }

    fn number(&self, given: i64) -> Result<usize> {
        usize::try_from(given).ok().filter(|number| *number < SLOTS).ok_or_else(|| {
            let (last, given) = (SLOTS - 1, given & i64::from(u32::MAX));
            Error::invalid(format!("Invalid keyslot {given} specified, must be between 0 and {last}"))
        })
    }

    fn slot(&self, number: usize) -> KeySlot {
        let none = KeySlot { active: false, iterations: 0, salt: [0; SALT_LEN], material_sector: 0 };
        self.header.slots.get(number).copied().unwrap_or(none)
    }

    fn free_slot(&self) -> Option<usize> {
        self.header.slots.iter().position(|slot| !slot.active)
    }

    fn active_slots(&self) -> usize {
        self.header.slots.iter().filter(|slot| slot.active).count()
    }

    fn opens(&self, number: usize, password: &[u8]) -> Result<bool> {
        let slot = self.slot(number);
        Ok(self.header.open_slot(self.device, self.base, &slot, password, &self.task)?.is_some())
    }

    /// Fills slot `number` with `key` under `password`.
    fn fill(&mut self, number: usize, key: &MasterKey, password: &[u8], iterations: u32) -> Result<()> {
        let mut salt = [0; SALT_LEN];
        fill_random(&mut salt)?;
        let slot = KeySlot { active: true, iterations, salt, ..self.slot(number) };
        let material = self.header.seal(key, password, &salt, iterations)?;
        self.device.write_at(self.place(&slot)?, &material)?;
        self.device.flush()?;
        self.store(number, slot)
    }

    /// Erases slot `number`.
    fn erase(&mut self, number: usize) -> Result<()> {
        let slot = KeySlot { active: false, iterations: 0, salt: [0; SALT_LEN], ..self.slot(number) };
        self.store(number, slot)?;
        let at = self.place(&slot)?;
        let mut noise = Zeroizing::new(vec![0; to_usize(self.header.material_len())]);
        for _ in 0..ERASE_PASSES {
            fill_random(&mut noise)?;
            self.device.write_at(at, &noise)?;
        }
        self.device.flush()
    }

    /// Puts `slot` into the header, in memory once it is durable.
    fn store(&mut self, number: usize, slot: KeySlot) -> Result<()> {
        let mut changed = self.header.clone();
        if let Some(place) = changed.slots.get_mut(number) {
            *place = slot;
        }
        self.device.write_at(self.base, &changed.encode())?;
        self.device.flush()?;
        *self.header = changed;
        Ok(())
    }

    /// Where the material of `slot` is on the device.
    fn place(&self, slot: &KeySlot) -> Result<u64> {
        let place = self.base.checked_add(slot.material_offset());
        place.ok_or_else(|| Error::corrupt("LUKS key material lies behind the greatest offset"))
    }
}

#[cfg(test)]
mod tests;
