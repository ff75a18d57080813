"""What signatures and the log can prove. Knows no tensor arithmetic."""
