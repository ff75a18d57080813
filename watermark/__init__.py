"""What a model's weights and answers can prove. Knows no network server, no SQL, no terminal."""
