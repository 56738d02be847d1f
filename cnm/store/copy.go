package store

import "time"

// copyPause is the time between two copies, in which a file that changes all the time is read once.
const copyPause = time.Second

// keepCopy is the Store's goroutine: it checks and copies the file after changes, until Close, which does so itself.
func (s *Store) keepCopy() {
	for {
		select {
		case <-s.changed:
		case <-s.stop:
			return
		}
		s.write.Lock()
		s.copyLocked()
		s.write.Unlock()
		pause := time.NewTimer(copyPause)
		select {
		case <-pause.C:
		case <-s.stop:
			pause.Stop()
			return
		}
	}
}

// copyLocked reads the file back and copies it when there is something new; it writes a file that turns out to be
// damaged anew.
func (s *Store) copyLocked() {
	if s.db == nil || !s.uncopied {
		return
	}
	if err := s.verifyLocked(s.state.header); err != nil {
		s.log.Error("state file is damaged; it is written anew", "path", s.path, "damage", err)
		s.renewLocked()
	}
}

// writeCopyLocked writes the copy. A failure is worth a line in the log and no more: the change itself is safe.
func (s *Store) writeCopyLocked(b []byte) {
	err := replace(s.copyPath(), b)
	if err != nil && !s.copyFailed {
		s.log.Warn("state file could not be copied; damage to it would cost the latest changes", "path", s.path, "err", err)
	}
	s.uncopied, s.copyFailed = err != nil, err != nil
}
