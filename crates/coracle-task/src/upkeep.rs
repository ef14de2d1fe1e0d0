//! What the daemon tells a shim about itself: where its keeper is, what it logs.

use std::path::Path;

use coracle_proto::shim_ext::{ChangeKeeperRequest, SetLogRequest};
use coracle_types::Kind;

use crate::error::Error;
use crate::patience::Limit;
use crate::shim::{Shim, unbounded};

impl Shim {
    /// Has the shim deposit with the keeper at `socket` what the last keeper held.
    pub(crate) async fn change_keeper(&self, socket: &Path) -> Result<(), Error> {
        let mut request = ChangeKeeperRequest::new();
        request.socket = socket.display().to_string();
        self.answered(
            "ChangeKeeper",
            Limit::Call,
            self.0.extension.change_keeper(unbounded(), &request),
        )
        .await?;
        Ok(())
    }

    /// Has the shim log by this filter from now on. One of a program that does not know the request goes on
    /// as it did.
    pub(crate) async fn set_log(&self, filter: &str) -> Result<(), Error> {
        let mut request = SetLogRequest::new();
        request.filter = filter.to_owned();
        let set = self.0.extension.set_log(unbounded(), &request);
        match self.answered("SetLog", Limit::Call, set).await {
            // Whatever words it has for a method that it does not know.
            Err(Error::Call { kind, .. }) if kind != Kind::Unavailable => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}
