"""What a finished run answers over HTTP: routes, uploads and who may ask; knows nothing of Ray."""
