//! One directory of a simulated disk: the primitive operations, each one counted and open to a fault.

use std::cell::RefMut;

use super::image::FileId;
use super::{Fault, SimDisk, State, failed};
use crate::storage::directory::Directory;
use crate::storage::{Cause, Operation, StorageError};

/// The primitive operations, each one counted.
pub(super) struct SimDirectory {
    pub(super) disk: SimDisk,
    pub(super) name: String,
}

impl SimDirectory {
    /// Count one operation; what the plan says of it.
    fn operate(&self, operation: Operation) -> Result<RefMut<'_, State>, (StorageError, RefMut<'_, State>)> {
        let mut state = self.disk.0.borrow_mut();
        if state.power_off {
            return Err((failed(operation, Cause::PowerCut), state));
        }
        let number = state.operations.len() as u64;
        state.operations.push(operation);
        let cause = match state.faults.get(&number) {
            None => return Ok(state),
            Some(Fault::CutPower) => {
                state.power_off = true;
                Cause::PowerCut
            }
            Some(Fault::Refuse) => Cause::Os(5),
            Some(Fault::NoSpace) => Cause::NoSpace,
        };
        Err((failed(operation, cause), state))
    }

    /// There is room for so many bytes more.
    fn room(state: &State, bytes: u64) -> bool {
        state.capacity_bytes.is_none_or(|capacity| state.image.used_bytes() + bytes <= capacity)
    }
}

impl Directory for SimDirectory {
    type File = FileId;

    fn names(&mut self) -> Result<Vec<(String, u64)>, StorageError> {
        if self.disk.is_power_off() {
            return Err(failed(Operation::List, Cause::PowerCut));
        }
        Ok(self.disk.files(&self.name))
    }

    fn create(&mut self, name: &str) -> Result<FileId, StorageError> {
        let mut state = self.operate(Operation::Open).map_err(|(error, _)| error)?;
        Ok(state.image.create(&self.name, name))
    }

    fn open(&mut self, name: &str) -> Result<FileId, StorageError> {
        let state = self.disk.0.borrow();
        if state.power_off {
            return Err(failed(Operation::Open, Cause::PowerCut));
        }
        state.image.find(&self.name, name).ok_or(failed(Operation::Open, Cause::Missing))
    }

    fn bytes(&mut self, file: &FileId) -> Result<u64, StorageError> {
        Ok(self.disk.0.borrow_mut().image.file(*file).bytes.len() as u64)
    }

    fn allocate(&mut self, file: &FileId, _from: u64, to: u64) -> Result<(), StorageError> {
        let mut state = self.operate(Operation::Allocate).map_err(|(error, _)| error)?;
        let more = to.saturating_sub(state.image.file(*file).bytes.len() as u64);
        if !SimDirectory::room(&state, more) {
            return Err(failed(Operation::Allocate, Cause::NoSpace));
        }
        state.image.file(*file).set_length(to);
        Ok(())
    }

    fn shorten(&mut self, file: &FileId, bytes: u64) -> Result<(), StorageError> {
        let mut state = self.operate(Operation::Shorten).map_err(|(error, _)| error)?;
        state.image.file(*file).set_length(bytes);
        Ok(())
    }

    fn write(&mut self, file: &FileId, position: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let powered = !self.disk.is_power_off();
        match self.operate(Operation::Write) {
            Ok(mut state) => {
                let length = state.image.file(*file).bytes.len() as u64;
                if !SimDirectory::room(&state, (position + bytes.len() as u64).saturating_sub(length)) {
                    return Err(failed(Operation::Write, Cause::NoSpace));
                }
                state.image.file(*file).write(position, bytes);
                Ok(())
            }
            Err((error, mut state)) => {
                // The write that the power cut interrupts may be on the medium in part.
                if error.cause == Cause::PowerCut && powered {
                    state.image.file(*file).write(position, bytes);
                }
                Err(error)
            }
        }
    }

    fn sync(&mut self, file: &FileId) -> Result<(), StorageError> {
        match self.operate(Operation::Sync) {
            Ok(mut state) => {
                state.image.file(*file).sync();
                Ok(())
            }
            Err((error, mut state)) => {
                if error.cause != Cause::PowerCut {
                    state.image.file(*file).lose_unsynced();
                }
                Err(error)
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut state = self.operate(Operation::Rename).map_err(|(error, _)| error)?;
        let id = state.image.find(&self.name, from).ok_or(failed(Operation::Rename, Cause::Missing))?;
        state.image.names(&self.name).rename(from, to, id);
        Ok(())
    }

    fn unlink(&mut self, name: &str) -> Result<(), StorageError> {
        let mut state = self.operate(Operation::Remove).map_err(|(error, _)| error)?;
        state.image.find(&self.name, name).ok_or(failed(Operation::Remove, Cause::Missing))?;
        state.image.names(&self.name).unlink(name);
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), StorageError> {
        let mut state = self.operate(Operation::SyncNames).map_err(|(error, _)| error)?;
        state.image.names(&self.name).sync();
        Ok(())
    }
}
